"""Passage files of every form, as JSONL that can be read by row.

Plain JSONL is read where it lies. Everything else is converted once into the cache directory, as
a stream, and again when it changes: a packed file (``.gz``, ``.zst``), DPR's tab-separated table
(also packed), Parquet, a directory written by ``datasets.Dataset.save_to_disk``. What a file is
shows in its first bytes, else in its name. A conversion that is stopped leaves nothing and starts
anew.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atlas_lm.passages import columns
from atlas_lm.passages.packed import unpacked
from atlas_lm.passages.sidecar import file_state
from atlas_lm.passages.tsv import is_table, table_lines
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.files import atomic_path, read_json, write_json
from atlas_lm.runtime.logs import notice
from atlas_lm.runtime.settings import cache_dir

FORMS = "JSONL, .jsonl.gz, .jsonl.zst, DPR's .tsv, .parquet, or a directory of save_to_disk"
"""What can be read, for error messages."""
CONVERTER = 2
"""Copies made by another number are made again."""
FOREIGN = {
    b"PK\x03\x04": "a zip archive",
    b"BZh": "packed with bzip2",
    b"\xfd7zXZ\x00": "packed with xz",
    b"ARROW1": "an Arrow file",
    b"%PDF": "a PDF",
    b"SQLite format 3": "an SQLite database",
}
FOREIGN_SUFFIXES = {".csv", ".xlsx", ".zip", ".bz2", ".xz", ".arrow", ".feather", ".tar", ".txt"}
STALE_SECONDS = 3600


@dataclass(frozen=True)
class Source:
    """A passage file that can be read by row."""

    plain: Path
    """JSONL: the file itself, or its converted copy."""
    place: str
    """What stands before a line's number in messages: ``file:``, or ``file, row ``."""


def open_source(path: Path) -> Source:
    """Return a file as JSONL: itself, or its converted copy, made now if need be.

    Raises:
        InputError: the file is missing, of an unknown form, damaged, or a row is no passage; or
            the package that reads it is not installed.
    """
    if path.is_dir():
        return _copied(
            path, columns.dataset_files(path), lambda: columns.dataset_lines(path), "row"
        )
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected passages as {FORMS}")
    with open(path, "rb") as file:
        start = file.read(4096)
    form = _form(path, start)
    if form == "jsonl":
        return Source(path.resolve(), f"{path}:")
    if form == "parquet":
        return _copied(path, [path], lambda: columns.parquet_lines(path), "row")
    if form == "tsv":
        return _copied(path, [path], lambda: table_lines(_blocks(path), path), "row")
    return _copied(path, [path], lambda: _unpacked_lines(path, form))


def _form(path: Path, start: bytes) -> str:
    """Return "jsonl", "gz", "zst", "parquet" or "tsv".

    Raises:
        InputError: it is none of them.
    """
    suffix = path.suffix.lower()
    if start.startswith(b"\x1f\x8b") or suffix == ".gz":
        return "gz"
    if start.startswith(b"\x28\xb5\x2f\xfd") or suffix == ".zst":
        return "zst"
    if start.startswith(b"PAR1") or suffix == ".parquet":
        return "parquet"
    foreign = next((name for magic, name in FOREIGN.items() if start.startswith(magic)), None)
    if foreign is None and b"\0" in start:
        foreign = "not text"
    if foreign is None and suffix in FOREIGN_SUFFIXES and not start.lstrip().startswith(b"{"):
        foreign = f"a {suffix} file"
    if foreign is not None:
        raise InputError(
            f"{path}: {foreign}, which is not read as passages; give {FORMS} (documents become "
            "passages with `atlas-lm prepare passages`)"
        )
    return "tsv" if suffix == ".tsv" or is_table(start) else "jsonl"


def _unpacked_lines(path: Path, form: str) -> tuple[str, Iterable[bytes]]:
    """Return what a packed file's rows are called and its content as JSONL, in pieces."""
    blocks = unpacked(path, form)
    first = next(blocks, b"")
    whole = _chained(first, blocks)
    if Path(path.stem).suffix.lower() == ".tsv" or is_table(first):
        return "row", table_lines(whole, path)
    return "line", whole


def _copied(
    path: Path,
    files: list[Path],
    convert: Callable[[], Any],
    unit: str | None = None,
) -> Source:
    """Return the converted copy of a file; ``convert`` makes its content, when it is needed."""
    key = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:24]
    copy = cache_dir() / "passages" / f"{key}.jsonl"
    stamp = copy.with_suffix(".source.json")
    state = [file_state(file.resolve()) for file in files]
    known = _stamp(stamp)
    if (
        known.get("converter") == CONVERTER
        and known.get("source") == state
        and copy.is_file()
        and known.get("bytes") == copy.stat().st_size
    ):
        return Source(copy.resolve(), _place(path, known.get("unit")))
    notice(f"Converting {path} to {copy}")
    stamp.unlink(missing_ok=True)
    _remove_stale(copy)
    unit, lines = (unit, convert()) if unit else convert()
    with atomic_path(copy) as temporary, open(temporary, "wb") as target:
        for line in lines:
            target.write(line)
    size = copy.stat().st_size
    write_json(stamp, {"converter": CONVERTER, "source": state, "bytes": size, "unit": unit})
    return Source(copy.resolve(), _place(path, unit))


def _place(path: Path, unit: Any) -> str:
    return f"{path}, row " if unit == "row" else f"{path}:"


def _stamp(path: Path) -> dict[str, Any]:
    try:
        return dict(read_json(path, what="the state of a converted file"))
    except (InputError, TypeError, ValueError):
        return {}


def _remove_stale(copy: Path) -> None:
    """Remove what a killed conversion left beside the copy."""
    for left in copy.parent.glob(f".{copy.name}.*.tmp"):
        if time.time() - left.stat().st_mtime > STALE_SECONDS:
            left.unlink(missing_ok=True)


def _blocks(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            yield block


def _chained(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest
