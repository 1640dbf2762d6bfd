"""Exact inner-product search over all vectors; cosine is the inner product of unit vectors.

- Vectors are stored in float32, float16 or bfloat16 and scored in float32 everywhere: chunks are
  widened into one reused buffer, so memory is bounded whatever the size of the index.
- On CPU an index may hold int8 codes too. They are read first, being smaller and faster to
  multiply, and the best few hundred rows are rescored from the vectors; where the codes cannot
  tell whether that is exact, the query is scored against all vectors after all.
- A few more rows than asked for are found and rescored in float64. Scores, and the order of near
  ties, therefore do not depend on chunk size, batch size or the order of summation on a device.
- Equal scores go to the lower row.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int32, Int64
from torch import Tensor

from atlas_lm.index.codes import Int8Scan, load_codes, supported
from atlas_lm.index.directory import writing
from atlas_lm.index.exact import (
    check_dim,
    check_finite,
    exact_search,
    n_rescored,
    uses_first_pass,
)
from atlas_lm.index.files import Fingerprint, Manifest, PassageFiles, read_manifest
from atlas_lm.index.member import steps_of
from atlas_lm.index.storage import map_array, map_embeddings, write_index
from atlas_lm.index.vectors import Dense, Int8Vectors, encode_int8, encode_int8_chunked
from atlas_lm.runtime.dtypes import DTYPES, name_of
from atlas_lm.runtime.errors import InputError
from atlas_lm.types import SearchResult


class _FirstPass(NamedTuple):
    """Codes, and the very vectors they are the codes of."""

    embeddings: Tensor
    scan: Int8Scan


class FlatIndex:
    """All vectors, searched exactly. Implements `index.base.Index`.

    The index takes ``embeddings`` over without a copy, and lives on their device.
    """

    def __init__(
        self,
        embeddings: Float[Tensor, "n dim"],
        *,
        fingerprint: Fingerprint,
        step: int = 0,
        passages: PassageFiles | None = None,
    ) -> None:
        """Take the vectors.

        Raises:
            InputError: no vectors, an unknown dtype, a dim other than the fingerprint's, or a
                component that is not finite.
        """
        if embeddings.dim() != 2 or not len(embeddings):
            raise InputError(
                f"embeddings of shape {list(embeddings.shape)}; an index needs [n dim], n > 0"
            )
        if embeddings.dtype not in DTYPES.values():
            raise InputError(f"embeddings are {embeddings.dtype}; use one of {', '.join(DTYPES)}")
        check_dim(embeddings, fingerprint.dim)
        check_finite(embeddings)
        self._set(embeddings.detach(), fingerprint, step, passages)

    def _set(
        self,
        embeddings: Tensor,
        fingerprint: Fingerprint,
        step: int,
        passages: PassageFiles | None,
        *,
        mapped: bool = False,
        row_steps: Int32[Tensor, " n"] | None = None,
        first_pass: _FirstPass | None = None,
        created: str = "",
    ) -> None:
        self._embeddings = embeddings
        self._mapped = mapped
        self._first_pass = first_pass
        self.fingerprint = fingerprint
        """What the vectors were computed with, and over."""
        self.step = step
        """The retriever's step when they were computed; the oldest one's where rows differ."""
        self.row_steps = row_steps
        """The step of every row's vector, on the CPU; None where all are of ``step``."""
        self.passage_files = passages
        """The passages the rows stand for, once the index is on disk."""
        self.created = created
        """When the vectors were written (UTC, ISO 8601); "" where they are not yet."""

    def __len__(self) -> int:
        return self._embeddings.shape[0]

    @property
    def dim(self) -> int:
        """Components of an embedding."""
        return self._embeddings.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """How embeddings are stored."""
        return self._embeddings.dtype

    @property
    def device(self) -> torch.device:
        """Where the vectors live and searches run."""
        return self._embeddings.device

    @property
    def embeddings(self) -> Float[Tensor, "n dim"]:
        """The stored vectors; not to be written to (see `update_`)."""
        return self._embeddings

    def to(self, device: torch.device | str) -> FlatIndex:
        """Return the same index on ``device``."""
        moved = object.__new__(FlatIndex)
        embeddings = self._embeddings.to(device)
        mapped = self._mapped and embeddings is self._embeddings
        moved._set(
            embeddings,
            self.fingerprint,
            self.step,
            self.passage_files,
            mapped=mapped,
            row_steps=self.row_steps,
            first_pass=self._first_pass if embeddings is self._embeddings else None,
            created=self.created,
        )
        return moved

    def share(self, rows: range) -> FlatIndex:
        """Return an index of these contiguous rows alone, over the same memory."""
        part = object.__new__(FlatIndex)
        embeddings = self._embeddings[rows.start : rows.stop]
        scan = self._scan_of(self._embeddings)
        part._set(
            embeddings,
            self.fingerprint,
            self.step,
            self.passage_files,
            mapped=self._mapped,
            row_steps=None if self.row_steps is None else self.row_steps[rows.start : rows.stop],
            first_pass=None if scan is None else _FirstPass(embeddings, scan.share(rows)),
            created=self.created,
        )
        return part

    @property
    def codes(self) -> Int8Vectors | None:
        """The int8 codes that are read first; None where there are none."""
        scan = self._scan_of(self._embeddings)
        return None if scan is None else scan.vectors

    def add_codes_(self) -> None:
        """Give the index int8 codes to read first, in memory: one byte a component.

        An index on another device than the CPU, or on a processor without integer products in
        torch, stays as it is.
        """
        if self.device.type == "cpu" and supported():
            codes = encode_int8_chunked(self._embeddings)
            self._first_pass = _FirstPass(self._embeddings, Int8Scan(codes))

    def pack_(self) -> None:
        """Copy the codes into memory in the layout that is fastest for single queries, at once.

        Without this call, searches of small batches do it bit by bit. Nothing happens where there
        are no codes.
        """
        scan = self._scan_of(self._embeddings)
        if scan is not None:
            scan.pack()

    def way(self, bsz: int, topk: int = 100) -> str:
        """Return in words how a batch of ``bsz`` queries is searched."""
        dtype = name_of(self.dtype)
        scan = self._scan_of(self._embeddings)
        if scan is None or not uses_first_pass(len(self), n_rescored(topk)):
            return f"float32 products with all {dtype} vectors, in chunks, on {self.device}"
        found = n_rescored(topk)
        return f"{scan.way(bsz)}, the best {found} rescored from {dtype} vectors"

    def _scan_of(self, embeddings: Tensor) -> Int8Scan | None:
        """Return the scan of the codes of these very vectors; codes of older ones are no use."""
        first_pass = self._first_pass
        return first_pass.scan if first_pass and first_pass.embeddings is embeddings else None

    def search(
        self,
        query_emb: Float[Tensor, "bsz dim"],
        topk: int,
        exclude_rows: Sequence[Sequence[int]] | None = None,
        *,
        allowed_rows: Bool[Tensor, " n"] | None = None,
    ) -> SearchResult:
        """Return the ``topk`` best rows of every query, best first, never an excluded one.

        Scores are float32 inner products. The result lives on the index's device.

        Args:
            query_emb: the queries, on any device, in any floating dtype.
            topk: rows per query.
            exclude_rows: for each query, rows it may not get; the result is full all the same.
            allowed_rows: True for the rows that any query may get; all where None.

        Raises:
            InputError: fewer than ``topk`` rows are left for a query, an excluded row does not
                exist, or a query is of another dim or not finite.
        """
        embeddings = self._embeddings
        return exact_search(
            Dense(embeddings),
            query_emb,
            topk,
            exclude_rows,
            allowed_rows=allowed_rows,
            first_pass=self._scan_of(embeddings),
        )

    def update_(
        self,
        rows: slice | Sequence[int] | Int64[Tensor, " n"],
        embeddings: Float[Tensor, "n dim"],
        *,
        step: int | None = None,
        fingerprint: Fingerprint | None = None,
    ) -> None:
        """Replace the vectors of the rows, all or none of them.

        A search that runs meanwhile sees all old or all new vectors when all rows are replaced
        (the new tensor is then taken over, where dtype and device agree without a copy). The
        first partial update of an index that maps its file reads it into memory: files change
        only through `save`.

        Args:
            rows: which rows, a slice or a list without repetitions.
            embeddings: their new vectors, in order.
            step: the retriever's step of the new vectors, which `row_steps` then shows; kept as it
                was if None.
            fingerprint: what they were computed with; kept as it was if None. Where rows of
                another encoder stay, the index is of ``MIXED`` encoders and fits no retriever.

        Raises:
            InputError: a row does not exist or is repeated, the shapes disagree, a vector is not
                finite in the index's dtype, or the fingerprint differs in more than the encoder.
                Nothing has changed then.
        """
        count = len(self)
        selected = torch.arange(count)[rows] if isinstance(rows, slice) else _as_rows(rows, count)
        if embeddings.dim() != 2 or len(embeddings) != len(selected):
            raise InputError(
                f"update: {len(selected)} rows but embeddings of shape {list(embeddings.shape)}"
            )
        check_dim(embeddings, self.dim)
        fresh = embeddings.detach().to(self.device, self.dtype)
        check_finite(fresh)
        whole = len(selected) == count
        described = self.fingerprint
        if fingerprint is not None:
            described = fingerprint if whole else described.mixed_with(fingerprint)
        scan = self._scan_of(self._embeddings)
        if isinstance(rows, slice) and len(selected) == count and rows.step in (None, 1):
            if scan is not None:
                self._first_pass = _FirstPass(fresh, scan.over(encode_int8_chunked(fresh)))
            self._embeddings, self._mapped = fresh, False
        else:
            if self._mapped:
                self._embeddings, self._mapped = self._embeddings.clone(), False
            self._embeddings[selected.to(self.device)] = fresh
            if scan is not None:
                scan.replace_(selected, encode_int8(fresh))
                self._first_pass = _FirstPass(self._embeddings, scan)
        if step is not None:
            self.set_steps_(step if whole else self._row_steps_with(selected, step))
        self.fingerprint = described
        if whole:
            self.created = ""

    def set_steps_(self, steps: int | Int32[Tensor, " n"]) -> None:
        """Say of which retriever's step the vectors are: one step, or one for each row.

        Raises:
            InputError: there is not one step for each row.
        """
        if isinstance(steps, int):
            self.step, self.row_steps = steps, None
            return
        if steps.shape != (len(self),):
            raise InputError(f"{len(self)} rows, but steps of shape {list(steps.shape)}")
        low, high = (int(bound) for bound in torch.aminmax(steps))
        self.step = low
        self.row_steps = None if low == high else steps.to("cpu", torch.int32)

    def _row_steps_with(self, selected: Int64[Tensor, " some"], step: int) -> Int32[Tensor, " n"]:
        after = steps_of(self).clone()
        after[selected] = step
        return after

    def save(
        self,
        path: str | Path,
        *,
        passages: PassageFiles | None = None,
        copy_passages: bool = False,
    ) -> None:
        """Write the index directory, or replace the index in it; a kill leaves the old or the new.

        Args:
            path: the directory.
            passages: the passage files of the rows; those the index was loaded with if None.
            copy_passages: put a copy of the passages into the directory instead of their names.

        Raises:
            InputError: the directory holds something else, is being written, or the disk is full.
        """
        passages = passages or self.passage_files
        with writing(path):
            self.passage_files = write_index(
                Path(path),
                self._embeddings,
                kind="flat",
                step=self.step,
                fingerprint=self.fingerprint,
                passages=passages,
                copy_passages=copy_passages or (passages is not None and passages.copied),
                arrays=self._arrays(),
                created=self.created,
            ).passages

    def _arrays(self) -> dict[str, Tensor]:
        codes = self.codes
        arrays = {} if codes is None else {"codes": codes.codes, "scales": codes.scales}
        return arrays if self.row_steps is None else {**arrays, "row_steps": self.row_steps}

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        device: torch.device | str = "cpu",
        mmap: bool = True,
        verify: bool = False,
    ) -> FlatIndex:
        """Open an index directory; file sizes are checked against the manifest.

        Args:
            path: the directory.
            device: where to search.
            mmap: on CPU, map the file instead of reading it: opens at once, read-only.
            verify: also compare the checksum, which reads the whole file.

        Raises:
            InputError: the manifest is missing, damaged, of a newer format or of another kind of
                index; or the vectors are missing, truncated or (``verify``) altered.
        """
        path = Path(path)
        manifest: Manifest = read_manifest(path, kind="flat")
        embeddings = map_embeddings(path, manifest, verify=verify)
        mapped = mmap and torch.device(device).type == "cpu"
        if not mapped:
            embeddings = embeddings.to(device, copy=True)
        row_steps = None
        if "row_steps" in manifest.arrays:
            shape = [manifest.count]
            row_steps = map_array(
                path, manifest, "row_steps", torch.int32, shape, verify=verify
            ).clone()
        first_pass = None
        if "codes" in manifest.arrays:
            codes = load_codes(path, manifest, mmap=mmap, verify=verify)
            if embeddings.device.type == "cpu" and supported():
                pack = False if manifest.settings.get("unpacked") else None
                first_pass = _FirstPass(embeddings, Int8Scan(codes, mapped=mmap, pack=pack))
        index = object.__new__(cls)
        index._set(
            embeddings,
            manifest.fingerprint,
            manifest.step,
            manifest.passages.located(path) if manifest.passages else None,
            mapped=mapped,
            row_steps=row_steps,
            first_pass=first_pass,
            created=manifest.created,
        )
        return index


def _as_rows(rows: Sequence[int] | Int64[Tensor, " n"], count: int) -> Int64[Tensor, " n"]:
    selected = torch.as_tensor(rows, dtype=torch.int64, device="cpu")
    if len(selected) and not 0 <= int(selected.min()) <= int(selected.max()) < count:
        raise InputError(f"update: rows outside 0 to {count - 1}; the index holds {count} passages")
    if len(torch.unique(selected)) != len(selected):
        raise InputError("update: a row is named twice; give every row one vector")
    return selected
