"""Passage files to line offsets, fingerprint and id hashes: the one full reading of a corpus."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atlas_lm.passages.jsonl import checked_id
from atlas_lm.passages.sidecar import IdTable, Layout
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.logs import progress_bar

BUFFER_BYTES = 1 << 24


def scan(paths: Sequence[Path], named: Sequence[Path], *, check: bool) -> Layout:
    """Read the files once and return where their lines lie and what they contain.

    With ``check`` every line is parsed and the ids are hashed; without it only newlines are
    sought. Memory: 8 bytes a passage, with ``check`` some 40 while ids are compared.

    Args:
        paths: the plain files.
        named: what to call them in errors (a ``.gz`` is read from its unpacked copy).
        check: whether to parse every line.

    Raises:
        InputError: a file is empty, a line is no passage, or an id occurs twice.
    """
    whole = hashlib.sha256()
    scans = []
    size = sum(path.stat().st_size for path in paths)
    with progress_bar() as progress:
        task = progress.add_task("Reading passages (MB)", total=-(-size >> 20))
        for path, name in zip(paths, named, strict=True):
            hashes = [whole, hashlib.sha256()] if len(paths) > 1 else [whole]
            scans.append(
                _scan_file(path, name, hashes, check, lambda n: progress.advance(task, n / 2**20))
            )
    layout = Layout(
        offsets=np.concatenate([found.offsets for found in scans]),
        lines=tuple(len(found.offsets) - 1 for found in scans),
        sha256=tuple(found.sha256 for found in scans),
        fingerprint=whole.hexdigest(),
    )
    if not check:
        return layout
    digests = b"".join(found.digests for found in scans)
    return Layout(**{**vars(layout), "ids": _id_table(np.frombuffer(digests, np.uint64))})


def id_hash(passage_id: str) -> bytes:
    """Return the 8-byte hash under which an id is filed."""
    return hashlib.blake2b(passage_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def repeated(ids: IdTable) -> Iterator[tuple[int, int]]:
    """Yield the pairs of rows, lower first, whose id hashes agree: the only possible duplicates."""
    for place in np.flatnonzero(ids.hashes[1:] == ids.hashes[:-1]):
        first, last = place, place + 1
        while first and ids.hashes[first - 1] == ids.hashes[place]:
            first -= 1
        for other in range(first, last):
            yield int(ids.rows[other]), int(ids.rows[last])


@dataclass(kw_only=True)
class _FileScan:
    offsets: NDArray[np.int64]
    sha256: str
    digests: bytearray = field(default_factory=bytearray)


def _scan_file(
    path: Path, name: Path, hashes: Sequence[Any], check: bool, advance: Callable[[int], None]
) -> _FileScan:
    digests = bytearray()
    starts: list[NDArray[np.int64]] = [np.zeros(1, np.int64)]
    place = lines = 0
    tail = b""
    with open(path, "rb", buffering=0) as file:
        while block := file.read(BUFFER_BYTES):
            for digest in hashes:
                digest.update(block)
            newlines = np.flatnonzero(np.frombuffer(block, np.uint8) == 10)
            starts.append(newlines + (place + 1))
            place += len(block)
            if check:
                *complete, tail = (tail + block).split(b"\n")
                for number, line in enumerate(complete, lines + 1):
                    digests += id_hash(checked_id(line, name, number))
                lines += len(complete)
            advance(len(block))
    if not place:
        raise InputError(f"{name}: empty file; expected one JSON passage per line")
    offsets, sha256 = np.concatenate(starts), hashes[-1].hexdigest()
    if offsets[-1] != place:
        hashes[0].update(b"\n")
        offsets = np.append(offsets, place)
        if check:
            digests += id_hash(checked_id(tail, name, lines + 1))
    return _FileScan(offsets=offsets, sha256=sha256, digests=digests)


def _id_table(hashes: NDArray[np.uint64]) -> IdTable:
    rows = np.argsort(hashes, kind="stable")
    return IdTable(hashes=hashes[rows], rows=rows.astype(np.uint32))
