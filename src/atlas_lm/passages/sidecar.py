"""What is known about passage files without reading them again: one file in the cache directory.

Layout: one line of JSON (format version, state of the source files, fingerprint, array sizes),
padded with spaces to `HEADER_BYTES`, then the arrays one after the other, little endian:
line offsets (int64), sorted id hashes (uint64) and their rows (uint32). The arrays are mapped,
never loaded. A sidecar whose source changed in size or time is ignored and written anew.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.files import atomic_path
from atlas_lm.runtime.logs import warn
from atlas_lm.runtime.settings import cache_dir

FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class IdTable:
    """Passage ids as hashes, for finding a row by its id."""

    hashes: NDArray[np.uint64]
    """64-bit hashes of the ids, sorted."""
    rows: NDArray[np.uint32]
    """The row of each hash."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the passages lie in their files."""

    offsets: NDArray[np.int64]
    """For every file in order: where each line starts, then the file's size."""
    lines: tuple[int, ...]
    """Lines in each file."""
    sha256: tuple[str, ...]
    """SHA-256 of each file's (unpacked) content."""
    fingerprint: str
    """SHA-256 of the contents joined, each closed by a newline."""
    ids: IdTable | None = None
    """Present once every line has been checked."""


def file_state(paths: Sequence[Path]) -> list[list[Any]]:
    """Return what tells whether the files changed: path, size, time of change, inode."""
    stats = [(path, os.stat(path)) for path in paths]
    return [[str(path), s.st_size, s.st_mtime_ns, s.st_ino] for path, s in stats]


def load_layout(paths: Sequence[Path]) -> Layout | None:
    """Return the cached layout of these files, mapped; None where there is none that is valid."""
    path = _sidecar_path(paths)
    try:
        with open(path, "rb") as file:
            header = json.loads(file.readline())
        if header["format_version"] != FORMAT_VERSION or header["files"] != file_state(paths):
            return None
        if path.stat().st_size != header["bytes"]:
            return None
        mapped = np.memmap(path, dtype=np.uint8, mode="r")
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return _from_bytes(header, np.asarray(mapped))


def save_layout(paths: Sequence[Path], layout: Layout, state: list[list[Any]]) -> None:
    """Write the sidecar; ``state`` is that of the files before they were read.

    A cache directory that cannot be written costs a warning, not the corpus.
    """
    arrays: list[NDArray[Any]] = [layout.offsets]
    if layout.ids is not None:
        arrays += [layout.ids.hashes, layout.ids.rows]
    header = {
        "format_version": FORMAT_VERSION,
        "files": state,
        "lines": layout.lines,
        "sha256": layout.sha256,
        "fingerprint": layout.fingerprint,
        "ids": layout.ids is not None,
    }
    start = _aligned(len(json.dumps(header)) + 64)
    header |= {"start": start, "bytes": start + sum(array.nbytes for array in arrays)}
    line = json.dumps(header).encode()
    try:
        with atomic_path(_sidecar_path(paths)) as temporary, open(temporary, "wb") as file:
            file.write(line.ljust(start - 1) + b"\n")
            for array in arrays:
                array.tofile(file)
    except (OSError, InputError) as error:
        warn(f"{cache_dir()}: cannot cache line offsets ({error}); set ATLAS_LM_CACHE")


def _from_bytes(header: dict[str, Any], data: NDArray[np.uint8]) -> Layout:
    lines = tuple(int(count) for count in header["lines"])
    total, place = sum(lines), int(header["start"])

    def take(dtype: type[np.generic], count: int) -> NDArray[Any]:
        nonlocal place
        begin, place = place, place + count * np.dtype(dtype).itemsize
        return data[begin:place].view(dtype)

    offsets = take(np.int64, total + len(lines))
    ids = None
    if header["ids"]:
        ids = IdTable(hashes=take(np.uint64, total), rows=take(np.uint32, total))
    return Layout(
        offsets=offsets,
        lines=lines,
        sha256=tuple(header["sha256"]),
        fingerprint=header["fingerprint"],
        ids=ids,
    )


def _aligned(size: int) -> int:
    return -(-size // 4096) * 4096


def _sidecar_path(paths: Sequence[Path]) -> Path:
    key = hashlib.sha256("\n".join(str(path) for path in paths).encode()).hexdigest()[:24]
    return cache_dir() / "passages" / f"{key}.offsets"
