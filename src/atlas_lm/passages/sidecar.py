"""What is known about a passage file without reading it again: one file in the cache directory.

Layout, little endian: line offsets (int64), sorted id hashes (uint64), their rows (uint32, padded
to 8 bytes), rows whose id is not the first of its kind (pairs of int64); then one line of JSON
(format version, state of the source file, counts, checksums) and the length of that JSON (8
bytes). The arrays are mapped, never loaded. Each file has a sidecar of its own, so a corpus of old
files and a new one costs one reading of the new one. A sidecar whose source changed in size or
time is ignored and written anew.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from atlas_lm.runtime.settings import cache_dir

FORMAT_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class IdTable:
    """Passage ids as hashes, for finding a row by its id."""

    hashes: NDArray[np.uint64]
    """64-bit hashes of the ids, sorted."""
    rows: NDArray[np.uint32]
    """The row in the file of each hash."""
    repeats: NDArray[np.int64]
    """Rows whose id occurs more than once in the file, each with the first row of that id."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the passages lie in one file. The arrays are views of a mapped file."""

    offsets: NDArray[np.int64]
    """Where each line starts, then the file's size."""
    sha256: str
    """SHA-256 of the file's (unpacked) content."""
    fingerprint: str
    """SHA-256 of the content closed by a newline."""
    ids: IdTable | None
    """Present once every line has been checked."""
    mapped: mmap.mmap
    """The sidecar."""

    @property
    def lines(self) -> int:
        """Lines in the file."""
        return len(self.offsets) - 1

    def forget(self) -> None:
        """Let the mapped pages go, so that one pass over a corpus does not keep them all."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self.mapped.madvise(mmap.MADV_DONTNEED)


def file_state(path: Path) -> list[Any]:
    """Return what tells whether a file changed: path, size, time of change, inode."""
    found = os.stat(path)
    return [str(path), found.st_size, found.st_mtime_ns, found.st_ino]


def sidecar_path(path: Path) -> Path:
    """Return where the sidecar of a file is kept."""
    key = hashlib.sha256(str(path).encode()).hexdigest()[:24]
    return cache_dir() / "passages" / f"{key}.offsets"


def load_layout(path: Path) -> Layout | None:
    """Return the cached layout of a file, mapped; None where there is none that is valid."""
    try:
        with open(sidecar_path(path), "rb") as file:
            return map_layout(file, file_state(path))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def map_layout(file: BinaryIO, state: list[Any]) -> Layout:
    """Return the layout in an open sidecar.

    Raises:
        ValueError, KeyError, TypeError: it is damaged, of another version or of another state.
    """
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    length = int.from_bytes(mapped[-8:], "little")
    facts = json.loads(mapped[max(len(mapped) - 8 - length, 0) : -8])
    if facts["format_version"] != FORMAT_VERSION or facts["file"] != state:
        raise ValueError("of another version or file")
    if facts["bytes"] + length + 8 != len(mapped):
        raise ValueError("cut short")
    lines, place = int(facts["lines"]), 0

    def take(dtype: type[np.generic], count: int) -> NDArray[Any]:
        nonlocal place
        begin, place = place, place + padded(count * np.dtype(dtype).itemsize)
        return np.frombuffer(mapped, dtype, count, begin)

    offsets, ids = take(np.int64, lines + 1), None
    if facts["ids"]:
        hashes, rows = take(np.uint64, lines), take(np.uint32, lines)
        repeats = take(np.int64, 2 * facts["repeats"]).reshape(-1, 2)
        ids = IdTable(hashes=hashes, rows=rows, repeats=repeats)
    return Layout(
        offsets=offsets,
        sha256=facts["sha256"],
        fingerprint=facts["fingerprint"],
        ids=ids,
        mapped=mapped,
    )


def write_facts(file: BinaryIO, facts: Mapping[str, Any]) -> None:
    """Close a sidecar whose arrays are written: what `map_layout` needs to know of them."""
    whole = {"format_version": FORMAT_VERSION, **facts, "bytes": file.tell()}
    written = json.dumps(whole).encode()
    file.write(written + len(written).to_bytes(8, "little"))
    file.flush()


def padded(size: int) -> int:
    """Return the size of an array in a sidecar: a multiple of 8."""
    return -(-size // 8) * 8
