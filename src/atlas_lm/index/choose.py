"""A kind of index for the memory there is: the most exact one whose searches fit into it.

What counts is what every search reads, for that must be in memory to be fast; what a search reads
a few rows of stays on disk, mapped. A fifth of the memory is left to everything else.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass

from atlas_lm.index.codes import packed_bytes
from atlas_lm.index.settings import IndexSettings
from atlas_lm.index.size import index_size
from atlas_lm.runtime.dtypes import SHORT
from atlas_lm.runtime.errors import InputError

USED = 0.8
"""Share of the memory that an index may take."""
TRAIN_ROWS = 262_144
"""Vectors a faiss index is trained on, where memory allows."""
LEAST_ROWS_OF_CODES = 1000
"""Vectors that it takes to learn product codes."""
RESCORE = 16
"""Rows rescored for every row asked for where codes are that small."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A kind of index, and why it was chosen."""

    settings: IndexSettings
    """The kind and its code size."""
    memory_bytes: int
    """What its searches read, or hold packed where that is more."""
    disk_bytes: int
    """What the index takes on disk, without passages."""
    reason: str
    """One sentence."""


def choose(count: int, dim: int, max_memory: int, *, dtype: str = "float16") -> Choice:
    """Return the most exact kind of index for ``count`` vectors that fits into ``max_memory``.

    Args:
        count: vectors.
        dim: their components.
        max_memory: bytes of memory that searching may take.
        dtype: how full-precision vectors are stored, on disk.

    Raises:
        InputError: nothing fits.
    """
    room = int(max_memory * USED)
    smallest = None
    for choice in _by_exactness(count, dim, room, dtype):
        if choice.memory_bytes <= room:
            return choice
        smallest = choice
    assert smallest is not None
    hint = "" if _has_faiss() else " (smaller codes need faiss: pip install 'atlas-lm[faiss]')"
    raise InputError(
        f"max memory {_size(max_memory)}: {count:,} vectors of {dim} components need at least "
        f"{_size(int(smallest.memory_bytes / USED))}, as {_name(smallest.settings)}{hint}; give "
        "more memory, split the index over several processes, or serve it from Milvus"
    )


def _by_exactness(count: int, dim: int, room: int, dtype: str) -> Iterator[Choice]:
    """Yield the kinds to choose from, the most exact first."""
    flat = index_size("flat", rows=count, dim=dim, dtype=SHORT[dtype])
    codes, vectors, packed = flat.hot_bytes, flat.cold_bytes, packed_bytes(count, dim)
    unpacked = packed > room
    as_stored = f"; packed for few queries they would take {_size(packed)}, and are not"
    yield Choice(
        settings=IndexSettings(kind="flat", dtype=dtype, unpacked=unpacked),
        memory_bytes=codes if unpacked else max(codes, packed),
        disk_bytes=flat.disk_bytes,
        reason=(
            f"flat, for it is exact, and the int8 codes that a search reads, {_size(codes)}, fit "
            f"into {_share(room)}; the {dtype} vectors, {_size(vectors)}, stay on disk"
            + as_stored
            * unpacked
        ),
    )
    binary = index_size("binary", rows=count, dim=dim, keep_vectors=True, dtype=SHORT[dtype])
    signs = binary.hot_bytes
    yield Choice(
        settings=IndexSettings(kind="binary", dtype=dtype, keep_vectors=True),
        memory_bytes=signs,
        disk_bytes=binary.disk_bytes,
        reason=(
            f"binary, for int8 codes would take {_size(codes)}, but signs, {_size(signs)}, fit "
            f"into {_share(room)}; what they find is rescored from the {dtype} vectors on disk"
        ),
    )
    for components in (8, 16) if _has_faiss() and count >= LEAST_ROWS_OF_CODES else ():
        yield _product_codes(count, dim, components, room, dtype, after=signs)


def _product_codes(
    count: int, dim: int, components: int, room: int, dtype: str, *, after: int
) -> Choice:
    """Return product quantisation with four bits for at least so many components."""
    parts = next(size for size in range(max(dim // components, 1), 0, -1) if dim % size == 0)
    factory = f"PQ{parts}x4fs"
    size = index_size(factory, rows=count, dim=dim, keep_vectors=True, dtype=SHORT[dtype])
    memory = size.hot_bytes
    train_rows = min(TRAIN_ROWS, max((room - memory) // (4 * dim), 16 * 256))
    settings = IndexSettings(
        kind="faiss",
        factory=factory,
        dtype=dtype,
        keep_vectors=True,
        rescore=RESCORE,
        train_rows=train_rows,
    )
    return Choice(
        settings=settings,
        memory_bytes=memory,
        disk_bytes=size.disk_bytes,
        reason=(
            f"faiss {settings.factory}, for signs would take {_size(after)}, but codes of "
            f"{-(-parts // 2)} bytes, {_size(memory)} in all, fit into {_share(room)}; what they "
            f"find is rescored from the {dtype} vectors on disk"
        ),
    )


def _has_faiss() -> bool:
    return importlib.util.find_spec("faiss") is not None


def _name(settings: IndexSettings) -> str:
    return f"faiss {settings.factory}" if settings.kind == "faiss" else settings.kind


def _share(room: int) -> str:
    return f"{_size(room)} (four fifths of the memory given)"


def _size(count: int) -> str:
    for unit, step in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= step:
            return f"{count / step:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"
