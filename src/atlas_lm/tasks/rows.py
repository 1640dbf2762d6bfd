"""Data files, read by row: nothing is held in memory but mapped arrays of line offsets.

JSONL is read where it lies; a packed file (``.gz``, ``.zst``) is unpacked once into the cache
directory; a directory of ``datasets.Dataset.save_to_disk`` is mapped.
"""

from __future__ import annotations

import hashlib
import os
import weakref
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from atlas_lm.passages.columns import dataset_files
from atlas_lm.passages.convert import open_source
from atlas_lm.passages.scan import scan
from atlas_lm.passages.sidecar import load_layout
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.extras import library
from atlas_lm.tasks.jsonl import parse_row

_OTHER_FORMS = {b"PAR1": "Parquet", b"ARROW1": "an Arrow file", b"PK\x03\x04": "a zip archive"}


class Rows(Protocol):
    """Raw rows by number, from 0."""

    @property
    def digest(self) -> str:
        """What the rows are: another for other content."""
        ...

    def __len__(self) -> int: ...

    def row(self, number: int) -> dict[str, Any]:
        """Return a row; it has an ``id``, its number from 1 where the file gives none."""
        ...

    def place(self, number: int) -> str:
        """Return where a row stands, as ``path:line``."""
        ...


def open_rows(path: str | Path) -> Rows:
    """Open a data file or a saved dataset.

    Raises:
        InputError: there is none, it is empty, or of a form that is not read.
    """
    path = Path(path)
    if path.is_dir():
        return DatasetRows(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a data file with one JSON object a line")
    with path.open("rb") as file:
        start = file.read(8)
    for magic, form in _OTHER_FORMS.items():
        if start.startswith(magic):
            raise InputError(f"{path}: {form}; write the rows as JSONL, or save them with datasets")
    return JsonlRows(path)


class JsonlRows:
    """The lines of a ``.jsonl[.gz|.zst]`` file."""

    def __init__(self, path: Path) -> None:
        if path.suffix not in {".gz", ".zst"} and path.stat().st_size == 0:
            raise InputError(f"{path}: the file is empty; expected one JSON object a line")
        plain = open_source(path).plain if path.suffix in {".gz", ".zst"} else path.resolve()
        layout = load_layout(plain)
        if layout is None:
            layout = scan(plain, f"{path}:", check=False, advance=lambda _: None)
        self._path, self._layout = path, layout
        self._file = os.open(plain, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    @property
    def digest(self) -> str:
        """SHA-256 of the lines."""
        return self._layout.fingerprint

    def __len__(self) -> int:
        return self._layout.lines

    def row(self, number: int) -> dict[str, Any]:
        """Return the object on a line; see `Rows.row`.

        Raises:
            InputError: the line is blank or not a JSON object.
        """
        start, end = self._layout.offsets[number : number + 2].tolist()
        content = os.pread(self._file, end - start, start)
        row = parse_row(content, place=self.place(number), first=number == 0)
        return _with_id(row, number)

    def place(self, number: int) -> str:
        """Return ``path:line``."""
        return f"{self._path}:{number + 1}"


class DatasetRows:
    """The rows of a directory written by ``datasets.Dataset.save_to_disk``, mapped."""

    def __init__(self, path: Path) -> None:
        needs = f"{path}: reading a saved dataset needs pyarrow"
        arrow = library(
            "pyarrow", needs=needs, extra="corpora", otherwise="write the rows as JSONL"
        )
        self._path = path
        self._batches: list[Any] = []
        digest = hashlib.sha256()
        for file in dataset_files(path)[1:]:
            try:
                with arrow.ipc.open_stream(arrow.memory_map(str(file))) as stream:
                    self._batches += list(stream)
            except (arrow.ArrowException, OSError) as error:
                raise InputError(f"{file}: damaged ({error}); save the dataset again") from error
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
        self._digest = digest.hexdigest()
        self._first = np.cumsum([0, *(batch.num_rows for batch in self._batches)])
        if not len(self):
            raise InputError(f"{path}: the dataset has no rows")

    @property
    def digest(self) -> str:
        """SHA-256 of the files."""
        return self._digest

    def __len__(self) -> int:
        return int(self._first[-1])

    def row(self, number: int) -> dict[str, Any]:
        """Return a row; see `Rows.row`."""
        batch = int(np.searchsorted(self._first, number, side="right")) - 1
        piece = self._batches[batch].slice(number - int(self._first[batch]), 1)
        return _with_id(dict(piece.to_pylist()[0]), number)

    def place(self, number: int) -> str:
        """Return ``path, row n``."""
        return f"{self._path}, row {number + 1}"


def _with_id(row: dict[str, Any], number: int) -> dict[str, Any]:
    if row.get("id") is None:
        row["id"] = str(number + 1)
    return row
