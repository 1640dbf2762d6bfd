"""The first pass: every row scored from its int8 code, which is a quarter of float32's memory.

- A chunk's codes stay where they are, mapped perhaps, and are multiplied by the queries' codes
  (oneDNN's integer product), good for many queries at once; or they are packed into the layout of
  FBGEMM's integer product, a copy in memory, which reads a single query's rows at the speed of
  memory. Searches of a few queries pack some chunks each, so that none of them waits.
- Queries are coded in 7 bits: products of 8-bit codes overflow where the processor lacks VNNI.
- Scores are near, not exact; whoever calls rescores the rows found.
"""

from __future__ import annotations

import threading
import warnings
import weakref
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Float32, Int64, UInt8
from torch import Tensor

from atlas_lm.index.files import Manifest
from atlas_lm.index.first_pass import CHUNK_ROWS, Found, Scorer, best_of_chunks
from atlas_lm.index.storage import map_array
from atlas_lm.index.vectors import OFFSET, Int8Vectors
from atlas_lm.runtime.memory import usable_bytes

PACKED_UP_TO = 32
"""Batches below this are faster over packed codes, and pack."""
PACKING_SEARCHES = 64
"""Searches over which packing is spread."""
QUERY_LEVELS = 63
"""Steps from zero to a query's largest component."""
PACKED_SHARE = 4
"""The packed codes of a process take at most this part (one in so many) of the machine's memory."""
PACKED_COMPONENTS = 512
"""Packed rows are padded to a multiple of so many components (FBGEMM's blocks with AVX2)."""

_PACKING = threading.Lock()
_PACKED: weakref.WeakSet[Int8Scan] = weakref.WeakSet()
"""The scans of this process that pack: members of a stack and shares have one allowance."""


def supported() -> bool:
    """Return whether this build of torch has oneDNN's integer product; else codes are no use."""
    return torch._C._has_mkldnn and hasattr(torch.ops.onednn, "qlinear_pointwise")


def packing_supported() -> bool:
    """Return whether this build of torch has FBGEMM's integer product."""
    return (
        "fbgemm" in torch.backends.quantized.supported_engines
        and hasattr(torch, "_make_per_channel_quantized_tensor")
        and hasattr(torch.ops.quantized, "linear_dynamic")
    )


def packed_bytes(rows: int, dim: int) -> int:
    """Return the memory that packed codes take."""
    return rows * -(-dim // PACKED_COMPONENTS) * PACKED_COMPONENTS


class Int8Scan:
    """Scores all rows of `Int8Vectors` on CPU and keeps each query's best."""

    def __init__(
        self, vectors: Int8Vectors, *, mapped: bool = False, pack: bool | None = None
    ) -> None:
        """Take the codes.

        Args:
            vectors: the codes.
            mapped: whether they are a file's, which may not be written to.
            pack: whether codes may be copied into memory for small batches; where they and those
                of the process's other scans take at most a quarter of the machine's memory if None.
        """
        self.vectors = vectors
        self._mapped = mapped
        self._asked = pack
        self._packed_bytes = packed_bytes(*vectors.codes.shape)
        self._allowance = usable_bytes() // PACKED_SHARE
        fits = self._packed_bytes <= self._allowance
        self.may_pack = packing_supported() and (fits if pack is None else pack)
        self._packed: list[Any] = [None] * -(-len(vectors) // CHUNK_ROWS)
        self._room: Tensor | None = None
        self.largest_step = _largest(vectors.scales)
        """The greatest step of a row: no component of a row is off by more than half of it."""

    def __len__(self) -> int:
        return len(self.vectors)

    def share(self, rows: range) -> Int8Scan:
        """Return a scan of these contiguous rows alone, over the same memory."""
        return self.over(self.vectors.share(rows), mapped=True)

    def over(self, vectors: Int8Vectors, *, mapped: bool = False) -> Int8Scan:
        """Return a scan of other codes, which packs them on the same conditions."""
        return Int8Scan(vectors, mapped=mapped, pack=self._asked if self.may_pack else False)

    @property
    def n_packed(self) -> int:
        """Chunks that are packed."""
        return sum(chunk is not None for chunk in self._packed)

    def way(self, bsz: int) -> str:
        """Return in words how a batch of ``bsz`` queries is scored."""
        if self.n_packed == len(self._packed):
            return "int8 codes packed in memory (FBGEMM)"
        if bsz < PACKED_UP_TO and self.may_pack:
            share = f"{self.n_packed} of {len(self._packed)} chunks packed in memory so far"
            return f"int8 codes ({share}; FBGEMM, the rest oneDNN)"
        return "int8 codes where they are stored (oneDNN)"

    def pack(self, chunks: int | None = None) -> None:
        """Pack that many more chunks of codes into memory, all if None."""
        with _PACKING:
            _PACKED.add(self)
        for _ in range(len(self._packed) if chunks is None else chunks):
            with _PACKING:  # another thread's search packs too, into the same room
                missing = (chunk for chunk, packed in enumerate(self._packed) if packed is None)
                chunk = next(missing, None)
                if chunk is None:
                    return
                self._pack_one(chunk)

    def _has_room(self) -> bool:
        """Return whether there is room for the packed codes; it is theirs from then on."""
        with _PACKING:
            others = sum(scan._packed_bytes for scan in _PACKED if scan is not self)
            if not self._asked and others + self._packed_bytes > self._allowance:
                return False
            _PACKED.add(self)
            return True

    def _pack_one(self, chunk: int) -> None:
        codes, scales = self._chunk(chunk)
        if self._room is None:  # one for all chunks, or each leaves a hole in the heap
            self._room = torch.empty((CHUNK_ROWS, codes.shape[1]), dtype=torch.uint8)
        signed = torch.bitwise_xor(codes, OFFSET, out=self._room[: len(codes)])
        self._packed[chunk] = _packed(signed.view(torch.int8), scales)
        if self.n_packed == len(self._packed):
            self._room = None

    def replace_(self, rows: Int64[Tensor, " some"], fresh: Int8Vectors) -> None:
        """Replace the codes of some rows; codes that were a file's are copied first."""
        with _PACKING:
            if self._mapped:
                held = self.vectors
                self.vectors = Int8Vectors(held.codes.clone(), held.scales.clone())
                self._mapped = False
            self.vectors.codes[rows], self.vectors.scales[rows] = fresh.codes, fresh.scales
            self.largest_step = max(self.largest_step, _largest(fresh.scales))
            for chunk in torch.unique(rows // CHUNK_ROWS).tolist():
                self._packed[chunk] = None

    def best(
        self,
        query: Float[Tensor, "bsz dim"],
        n_found: int,
        excluded: Int64[Tensor, "pairs 2"],
        hidden: Bool[Tensor, " n"] | None,
    ) -> Found:
        """Return each query's ``n_found`` best rows by code; see `FirstPass.best`."""
        if self.may_pack and len(query) < PACKED_UP_TO and self._has_room():
            self.pack(-(-len(self._packed) // PACKING_SEARCHES))
        largest = query.abs().amax(dim=1, keepdim=True)
        largest = torch.where(largest > 0, largest, 1.0)
        unit = query / largest

        def scorer() -> Scorer:
            product = IntegerProduct(unit, QUERY_LEVELS)
            return lambda chunk: self._scores(unit, product, chunk)

        scores, rows = best_of_chunks(scorer, len(self), len(unit), n_found, excluded, hidden)
        return scores * largest, rows

    def _scores(
        self, unit: Float[Tensor, "bsz dim"], product: IntegerProduct, chunk: int
    ) -> tuple[Tensor, bool]:
        packed = self._packed[chunk]
        if packed is not None:
            return torch.ops.quantized.linear_dynamic(unit, packed, True), True
        codes, scales = self._chunk(chunk)
        return product(codes, OFFSET).mul_(scales[:, None]), False

    def _chunk(self, chunk: int) -> tuple[Tensor, Tensor]:
        rows = slice(chunk * CHUNK_ROWS, (chunk + 1) * CHUNK_ROWS)
        return self.vectors.codes[rows], self.vectors.scales[rows]


class IntegerProduct:
    """Products of unsigned bytes with a batch of queries, in integers (oneDNN)."""

    def __init__(self, unit: Float[Tensor, "bsz dim"], levels: int) -> None:
        """Code the queries.

        Args:
            unit: queries with components from -1 to 1.
            levels: steps from 0 to 1, up to 127. Two products of a byte and a query's code must
                not exceed 32767, or processors without VNNI cut them off.
        """
        codes = (unit * levels).round().to(torch.int8)
        self._codes = torch.ops.onednn.qlinear_prepack(codes, [CHUNK_ROWS, unit.shape[1]])
        self._steps = torch.full((len(unit),), 1 / levels)
        self._zeros = torch.zeros(len(unit), dtype=torch.int64)

    def __call__(self, rows: UInt8[Tensor, "rows dim"], offset: int) -> Float[Tensor, "rows bsz"]:
        """Return the inner products of (rows - offset) with the queries."""
        product: Tensor = torch.ops.onednn.qlinear_pointwise(
            rows,
            1.0,
            offset,
            self._codes,
            self._steps,
            self._zeros,
            None,
            1.0,
            0,
            torch.float32,
            "none",
            [],
            "",
        )
        return product


def _largest(scales: Float32[Tensor, " n"]) -> float:
    """Return the greatest step; 0 where a process has no rows."""
    return float(scales.max()) if len(scales) else 0.0


def _packed(signed: Tensor, scales: Tensor) -> Any:
    """Return signed codes in FBGEMM's layout: a copy of one byte a component.

    One thread at a time may be here: warnings and the engine are set for the whole process.
    """
    zeros = torch.zeros(len(signed), dtype=torch.int64)
    steps = torch.where(scales > 0, scales, 1.0).double()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*quantized tensor.*")
        matrix = torch._make_per_channel_quantized_tensor(signed, steps, zeros, 0)
        engine = torch.backends.quantized.engine
        torch.backends.quantized.engine = "fbgemm"  # the layout follows this setting
        try:
            return torch.ops.quantized.linear_prepack(matrix, None)
        finally:
            torch.backends.quantized.engine = engine


def load_codes(
    directory: Path, manifest: Manifest, *, mmap: bool = True, verify: bool = False
) -> Int8Vectors:
    """Return the int8 codes of an index directory, mapped or in memory.

    Raises:
        InputError: a file is missing, of another size than the manifest says, or (``verify``) of
            another checksum.
    """
    shape = [manifest.count, manifest.dim]
    codes = map_array(directory, manifest, "codes", torch.uint8, shape, verify=verify)
    scales = map_array(directory, manifest, "scales", torch.float32, shape[:1], verify=verify)
    return Int8Vectors(codes, scales) if mmap else Int8Vectors(codes.clone(), scales.clone())
