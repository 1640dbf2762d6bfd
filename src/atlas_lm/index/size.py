"""Bytes of an index, by kind: on disk, and of these the ones every search reads."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from atlas_lm.runtime.errors import InputError

WIDTH = {"fp32": 4, "fp16": 2, "bf16": 2}
"""Bytes of a component in full precision."""
KINDS = (*WIDTH, "int8", "binary", "milvus")
ROW_OF_STORE = 20
"""Bytes of a passage in the store's sidecar: its offset, the hash of its id, its row."""
FACTORIES = "IVF4096,PQ64  IVF,SQ8  PQ64  OPQ64,IVF65536,PQ64x4fs  HNSW32  RaBitQ"


@dataclass(frozen=True, kw_only=True)
class IndexSize:
    """What an index of some rows takes."""

    kind: str
    """As it is built: a kind, or the factory string written out."""
    rows: int
    """Vectors."""
    hot_bytes: int
    """Read by every search: in memory if searches are to be fast."""
    cold_bytes: int
    """Read a few rows at a time, for rescoring: may stay on disk, mapped."""
    training_bytes: int = 0
    """Memory for the sample that a faiss index is trained on."""
    scanned_share: float = 1.0
    """Part of the hot bytes that one search reads."""
    exact: bool = False
    """Whether searches are exact."""
    divisible: bool = True
    """Whether a process can hold its share alone; else each opens the whole."""
    mapped: bool = True
    """Whether its files are mapped, so that processes on a machine share them."""

    @property
    def gpu_bytes(self) -> int:
        """Bytes a GPU holds, all read by every search there; 0 for a kind that none searches.

        A flat index has its vectors there, not the codes that are read first on a CPU.
        """
        if self.exact:
            return self.cold_bytes or self.hot_bytes
        return self.hot_bytes if self.kind == "int8" else 0

    @property
    def disk_bytes(self) -> int:
        """Bytes of the directory, without passages."""
        return self.hot_bytes + self.cold_bytes

    @property
    def bytes_per_vector(self) -> float:
        """Bytes on disk for each row."""
        return self.disk_bytes / self.rows


def index_size(
    kind: str,
    *,
    rows: int,
    dim: int,
    keep_vectors: bool = False,
    first_pass: bool = True,
    dtype: str = "fp16",
) -> IndexSize:
    """Return the bytes of an index of ``rows`` vectors of ``dim`` components.

    Args:
        kind: fp32, fp16, bf16, int8, binary, milvus, or a faiss factory string in any case; an
            ``IVF`` without a number gets as many lists as suit the rows.
        rows: vectors.
        dim: components.
        keep_vectors: keep full precision beside codes, in ``dtype``.
        first_pass: whether a flat index keeps int8 codes too, which are read first.
        dtype: fp32, fp16 or bf16.

    Raises:
        InputError: the kind is neither, or a factory string has a part that is not known.
    """
    plain = kind.strip().lower()
    vectors = rows * dim * WIDTH[dtype]
    codes = rows * (dim + 4)
    if plain in WIDTH or plain == "flat":
        vectors = rows * dim * WIDTH[dtype if plain == "flat" else plain]
        name = dtype if plain == "flat" else plain
        hot, cold = (codes, vectors) if first_pass else (vectors, 0)
        return IndexSize(kind=name, rows=rows, hot_bytes=hot, cold_bytes=cold, exact=True)
    cold = vectors if keep_vectors else 0
    if plain == "int8":
        return IndexSize(kind=plain, rows=rows, hot_bytes=codes, cold_bytes=cold)
    if plain == "binary":
        signs = rows * (-(-dim // 8) + 4)
        return IndexSize(kind=plain, rows=rows, hot_bytes=signs, cold_bytes=cold or codes)
    if plain == "milvus":
        hot = rows * (4 * dim + 16)
        return IndexSize(kind=plain, rows=rows, hot_bytes=hot, cold_bytes=cold, divisible=False)
    return _faiss(kind, rows, dim, cold)


@dataclass
class _Factory:
    """A factory string as it is read, part by part."""

    rows: int
    dim: int
    row_bytes: float = 0.0
    fixed_bytes: float = 0.0
    lists: int = 0
    probes: int = 1
    stored: bool = False
    graph: bool = False

    def read(self, part: str) -> str:
        """Take one part into account; return how faiss spells it.

        Raises:
            InputError: it is not known.
        """
        for pattern, take in _PARTS:
            match = re.fullmatch(pattern, part, re.IGNORECASE)
            if match is not None:
                return take(self, match)
        raise InputError(
            f"{part!r} is no part of a faiss factory string that is known here; kinds are "
            f"{', '.join(KINDS)}, or a factory string such as {FACTORIES}"
        )

    def _code(self, size: float) -> None:
        self.row_bytes += size
        self.stored = True


def _faiss(factory: str, rows: int, dim: int, cold: int) -> IndexSize:
    read = _Factory(rows, dim)
    parts = [part.strip() for part in factory.split(",")]
    parts = [piece for part in parts for piece in _split_alias(part)]
    names = [read.read(part) for part in parts]
    if not read.stored:
        names.append("Flat")
        read._code(4 * read.dim)
    train = min(rows, training_rows(read.lists)) * dim * 4
    return IndexSize(
        kind=",".join(names),
        rows=rows,
        hot_bytes=math.ceil(rows * read.row_bytes + read.fixed_bytes),
        cold_bytes=cold,
        training_bytes=train,
        scanned_share=_scanned(read),
        divisible=False,
        mapped=read.lists > 0,
    )


def _split_alias(part: str) -> list[str]:
    """Return ``ivfpq64`` as ``IVF`` and ``PQ64``."""
    match = re.fullmatch(r"(ivf[0-9]*)((?:pq|sq|flat|rabitq).+|flat|rabitq)", part, re.IGNORECASE)
    return [match[1], match[2]] if match else [part]


def _scanned(read: _Factory) -> float:
    """Return which part of an index a search reads."""
    if read.graph:
        return min(1.0, 128 * 64 / read.rows)
    return min(1.0, read.probes / read.lists) if read.lists else 1.0


def training_rows(lists: int) -> int:
    """Return how many vectors a faiss index is trained on: at least 39 for each of its lists.

    Of fewer faiss warns that its centroids are poor.
    """
    return max(262_144, 39 * lists)


def default_lists(rows: int) -> int:
    """Return how many lists an ``IVF`` without a number gets: a power of two near 4 sqrt(rows)."""
    return int(2 ** max(round(math.log2(4 * math.sqrt(rows))), 0))


def _ivf(read: _Factory, match: re.Match[str]) -> str:
    read.lists = int(match[1]) if match[1] else default_lists(read.rows)
    read.probes = max(read.lists // 16, 1)
    read.row_bytes += 8
    read.fixed_bytes += read.lists * (4 * read.dim + 8)
    return f"IVF{read.lists}" + (match[2] or "").upper()


def _pq(read: _Factory, match: re.Match[str]) -> str:
    parts, bits = int(match[1]), int(match[2] or 8)
    fast = (match[3] or "").lower()
    if fast.startswith("fs"):
        bits = int(match[2] or 4)
        read.fixed_bytes += read.lists * 16 * math.ceil(parts * bits / 8)  # lists end in whole lots
    if read.dim % parts:
        fitting = [str(n) for n in (8, 12, 16, 24, 32, 48, 64, 96, 128) if read.dim % n == 0]
        raise InputError(
            f"PQ{parts}: {parts} parts do not divide {read.dim} components; choose one of "
            f"{', '.join(fitting)}"
        )
    read._code(math.ceil(parts * bits / 8))
    read.fixed_bytes += 4 * read.dim * 2**bits
    return f"PQ{parts}" + (f"x{bits}" if match[2] else "") + fast


def _hnsw(read: _Factory, match: re.Match[str]) -> str:
    links = int(match[1])
    read.graph = True
    read.row_bytes += 12 + 8 * links + 4 * links / max(links - 1, 1)
    return f"HNSW{links}"


def _rotation(read: _Factory, match: re.Match[str]) -> str:
    kind = match[1].upper()
    target = match[3] if kind == "OPQ" else match[2]
    out = int(target) if target else read.dim
    read.fixed_bytes += 4 * (read.dim + 1) * out
    if kind.startswith("PCA"):  # the whole basis, its mean and its variances are kept
        read.fixed_bytes += 4 * read.dim * (read.dim + 2)
    read.dim = out
    return f"{kind}{match[2] or ''}" + (f"_{match[3]}" if match[3] else "")


def _scalar(read: _Factory, match: re.Match[str]) -> str:
    kind = match[1].lower()
    bits = {"fp16": 16, "bf16": 16}.get(kind) or int(kind)
    read._code(math.ceil(read.dim * bits / 8))
    read.fixed_bytes += 0 if kind in ("fp16", "bf16") else 8 * read.dim
    return f"SQ{kind}"


def _flat(read: _Factory, match: re.Match[str]) -> str:
    read._code(4 * read.dim)
    return "Flat" if not match[0].upper().startswith("R") else "RFlat"


def _rabitq(read: _Factory, match: re.Match[str]) -> str:
    read._code(-(-read.dim // 8) + 8)
    return "RaBitQ"


def _lsh(read: _Factory, match: re.Match[str]) -> str:
    read._code(-(-read.dim // 8))
    return "LSH"


def _norm(read: _Factory, match: re.Match[str]) -> str:
    return "L2norm"


_PARTS: tuple[tuple[str, Callable[[_Factory, re.Match[str]], str]], ...] = (
    (r"IVF(\d*)(_HNSW\d*)?", _ivf),
    (r"PQ(\d+)(?:x(\d+))?(fsr|fs|np)?", _pq),
    (r"HNSW(\d+)", _hnsw),
    (r"(OPQ)(\d+)(?:_(\d+))?", _rotation),
    (r"(PCAR|PCAW|PCA|RR|ITQ)(\d+)()", _rotation),
    (r"SQ(fp16|bf16|8|6|4)", _scalar),
    (r"R?Flat", _flat),
    (r"RaBitQ", _rabitq),
    (r"LSH", _lsh),
    (r"L2norm", _norm),
)
