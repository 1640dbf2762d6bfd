"""A passage file to line offsets, fingerprint and id hashes: the one full reading of a corpus.

Memory does not grow with the file: offsets and hashes go to disk as they are found, and the
hashes are sorted one range of values after the other.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from atlas_lm.passages.jsonl import checked_id
from atlas_lm.passages.sidecar import Layout, file_state, map_layout, padded, sidecar_path
from atlas_lm.passages.sidecar import write_facts as _close
from atlas_lm.runtime.errors import DiskFullError, InputError
from atlas_lm.runtime.files import atomic_path
from atlas_lm.runtime.logs import warn
from atlas_lm.runtime.settings import cache_dir

BUFFER_BYTES = 1 << 22
ROWS_AT_ONCE = 1 << 20


def scan(path: Path, place: str, *, check: bool, advance: Callable[[int], None]) -> Layout:
    """Read a file once; return where its lines lie and what it contains, and keep that cached.

    With ``check`` every line is parsed and the ids are hashed; without it only newlines are
    sought. A cache directory that cannot be written costs a warning, not the corpus.

    Args:
        path: the plain file.
        place: what stands before a line's number in errors.
        check: whether to parse every line.
        advance: told the number of bytes read since the last call.

    Raises:
        InputError: the file is empty or a line is no passage.
    """
    sidecar = sidecar_path(path)
    try:
        with atomic_path(sidecar) as temporary, open(temporary, "w+b") as file:
            layout = _scan_into(file, path, place, check, advance)
        return layout
    except (OSError, DiskFullError) as error:
        warn(f"{cache_dir()}: cannot cache line offsets ({error}); set ATLAS_LM_CACHE")
    with tempfile.TemporaryFile() as file:
        return _scan_into(file, path, place, check, advance)


def id_hash(passage_id: str) -> bytes:
    """Return the 8-byte hash under which an id is filed."""
    return hashlib.blake2b(passage_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def repeated(rows: Iterable[int], id_of: Callable[[int], str]) -> NDArray[np.int64]:
    """Return the rows that share an id with another of them, each with the first row of that id."""
    by_id: dict[str, list[int]] = {}
    for row in sorted({int(row) for row in rows}):
        by_id.setdefault(id_of(row), []).append(row)
    pairs = [(row, same[0]) for same in by_id.values() if len(same) > 1 for row in same]
    return np.array(sorted(pairs), np.int64).reshape(-1, 2)


@dataclass(frozen=True, kw_only=True)
class _Read:
    lines: int
    sha256: str
    fingerprint: str


def _scan_into(
    out: BinaryIO, path: Path, place: str, check: bool, advance: Callable[[int], None]
) -> Layout:
    """Write the sidecar of a file and return it mapped."""
    state = file_state(path)
    with tempfile.TemporaryFile() as digests:
        found = _read(path, place, out, digests if check else None, advance)
        repeats = _write_ids(out, digests, found.lines, path, place) if check else 0
    facts = {"file": state, **vars(found), "ids": check, "repeats": repeats}
    _close(out, facts)
    return map_layout(out, state)


def _read(
    path: Path,
    place: str,
    offsets: BinaryIO,
    digests: BinaryIO | None,
    advance: Callable[[int], None],
) -> _Read:
    """Read the lines; write their starts to ``offsets``, their ids' hashes to ``digests``."""
    digest = hashlib.sha256()
    read = checked = lines = last = 0
    tail = b""
    offsets.write(bytes(8))
    with open(path, "rb", buffering=0) as file:
        while block := file.read(BUFFER_BYTES):
            digest.update(block)
            starts = np.flatnonzero(np.frombuffer(block, np.uint8) == 10) + (read + 1)
            offsets.write(starts.astype("<i8").tobytes())
            read, lines = read + len(block), lines + len(starts)
            last = int(starts[-1]) if len(starts) else last
            if digests is not None:
                *complete, tail = (tail + block).split(b"\n")
                digests.write(_hashes(complete, place, checked))
                checked += len(complete)
            advance(len(block))
    if not read:
        raise InputError(f"{_file(place)}: empty file; expected one JSON passage per line")
    sha256 = digest.hexdigest()
    if last != read:
        digest.update(b"\n")
        offsets.write(read.to_bytes(8, "little"))
        lines += 1
        if digests is not None:
            digests.write(_hashes([tail], place, checked))
    return _Read(lines=lines, sha256=sha256, fingerprint=digest.hexdigest())


def _file(place: str) -> str:
    return place.removesuffix(", row ").removesuffix(":")


def _hashes(lines: list[bytes], place: str, before: int) -> bytes:
    return b"".join(
        id_hash(checked_id(line, place, number)) for number, line in enumerate(lines, before + 1)
    )


def _write_ids(out: BinaryIO, digests: BinaryIO, lines: int, path: Path, place: str) -> int:
    """Append the sorted id hashes, their rows and the repeated rows; return how many repeat."""
    candidates: list[int] = []
    with tempfile.TemporaryFile() as all_rows:
        for hashes, rows in _sorted(digests, lines):
            out.write(hashes.tobytes())
            all_rows.write(rows.astype("<u4").tobytes())
            same = np.flatnonzero(hashes[1:] == hashes[:-1])
            candidates += rows[np.union1d(same, same + 1)].tolist()
        all_rows.seek(0)
        while piece := all_rows.read(BUFFER_BYTES):
            out.write(piece)
    out.write(bytes(padded(4 * lines) - 4 * lines))
    out.flush()
    with open(path, "rb", buffering=0) as source:

        def id_of(row: int) -> str:
            start, end = np.frombuffer(os.pread(out.fileno(), 16, 8 * row), "<i8").tolist()
            return checked_id(os.pread(source.fileno(), end - start, start), place, row + 1)

        repeats = repeated(candidates, id_of)
    out.write(repeats.tobytes())
    return len(repeats)


def _sorted(
    digests: BinaryIO, lines: int
) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.int64]]]:
    """Yield the hashes in ascending order with their rows, a range of values at a time."""
    ranges = -(-lines // ROWS_AT_ONCE)
    for wanted in range(ranges):
        hashes, rows = [], []
        digests.seek(0)
        for start in range(0, lines, ROWS_AT_ONCE):
            piece = np.frombuffer(digests.read(8 * min(ROWS_AT_ONCE, lines - start)), "<u8")
            mine = np.flatnonzero(((piece >> np.uint64(32)) * np.uint64(ranges)) >> 32 == wanted)
            hashes.append(piece[mine])
            rows.append(mine + start)
        joined = np.concatenate(hashes)
        order = np.argsort(joined, kind="stable")
        yield joined[order], np.concatenate(rows)[order]
