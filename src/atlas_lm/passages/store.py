"""Passages on disk, read by row: nothing is held in memory but a mapped array of line offsets.

- A row is a line; several files count on, in the order given.
- A read is one `os.pread` and one parse. No position is shared, so threads and forked workers
  may read at once.
- Offsets, fingerprint and id hashes come from one scan and are kept in the cache directory
  (`sidecar`); a corpus that was seen before opens in milliseconds.
- A ``.gz`` file is unpacked once into the cache directory, for it cannot be read by row.
"""

from __future__ import annotations

import operator
import os
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from atlas_lm.passages.jsonl import parse_passage
from atlas_lm.passages.scan import id_hash, repeated, scan
from atlas_lm.passages.sidecar import IdTable, Layout, file_state, load_layout, save_layout
from atlas_lm.passages.unpack import plain_file
from atlas_lm.runtime.errors import InputError
from atlas_lm.types import Passage


class PassageStore:
    """A corpus: `len`, ``store[row]``, `passages` by rows, `rows_of` by ids. Safe to share."""

    def __init__(self, paths: Sequence[Path], plain: Sequence[Path], layout: Layout) -> None:
        self.paths = tuple(paths)
        """The files, as they were named."""
        self._plain = tuple(plain)
        self._layout = layout
        self._first_row = np.cumsum([0, *layout.lines])
        self._files = [os.open(path, os.O_RDONLY) for path in plain]
        self._close = weakref.finalize(self, _close_all, self._files)

    @classmethod
    def open(cls, paths: str | Path | Sequence[str | Path], *, check: bool = True) -> PassageStore:
        """Open JSONL files (plain or ``.gz``) as one corpus.

        With ``check`` every line has been validated, now or at an earlier opening of the same
        files; without it a bad line is an error only when it is read.

        Raises:
            InputError: a file is missing or empty; with ``check`` also a line that is no passage
                or an id that occurs twice. The message names file and line.
        """
        named = [Path(paths)] if isinstance(paths, str | Path) else [Path(path) for path in paths]
        if not named:
            raise InputError("no passage file given; name at least one .jsonl or .jsonl.gz file")
        plain = [plain_file(path).resolve() for path in named]
        layout = load_layout(plain)
        if layout is None or (check and layout.ids is None):
            layout = _scanned(plain, named, check=check)
        return cls(named, plain, layout)

    def __len__(self) -> int:
        return int(self._first_row[-1])

    def __getitem__(self, row: int) -> Passage:
        return self.passages([operator.index(row)])[0]

    def __iter__(self) -> Iterator[Passage]:
        for start in range(0, len(self), 1024):
            yield from self.passages(range(start, min(start + 1024, len(self))))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the content: the same for the same lines in one file, in several or packed."""
        return self._layout.fingerprint

    @property
    def plain_paths(self) -> tuple[Path, ...]:
        """The files that are read: those named, or their unpacked copies."""
        return self._plain

    @property
    def sha256(self) -> tuple[str, ...]:
        """SHA-256 of each file's content, unpacked."""
        return self._layout.sha256

    def passages(self, rows: Sequence[int] | NDArray[np.integer]) -> list[Passage]:
        """Return the passages of the rows, in that order.

        Raises:
            IndexError: a row is negative or not smaller than `len`.
            InputError: a line that was not checked is no passage, or the file changed.
        """
        wanted = np.asarray(rows, dtype=np.int64)
        if wanted.size == 0:
            return []
        if wanted.min() < 0 or wanted.max() >= len(self):
            bad = wanted[(wanted < 0) | (wanted >= len(self))][0]
            raise IndexError(f"row {bad} of a corpus of {len(self)} passages")
        files = np.searchsorted(self._first_row, wanted, side="right") - 1
        places = wanted + files  # each file before this one adds its closing offset
        starts, ends = self._layout.offsets[places], self._layout.offsets[places + 1]
        lines = wanted - self._first_row[files] + 1
        numbers = zip(files.tolist(), starts.tolist(), ends.tolist(), lines.tolist(), strict=True)
        return [
            parse_passage(os.pread(self._files[file], end - start, start), self.paths[file], line)
            for file, start, end, line in numbers
        ]

    def rows_of(
        self, ids: Iterable[str], *, missing: Literal["error", "skip"] = "error"
    ) -> list[int]:
        """Return the row of each passage id, in order.

        Raises:
            InputError: an id is not in the corpus and ``missing`` is "error"; or the corpus was
                opened unchecked and does not pass the check that this needs.
        """
        ids = list(ids)
        table = self._ids() if ids else None
        rows = []
        for passage_id in ids:
            row = self._row_of(passage_id, table) if table else None
            if row is not None:
                rows.append(row)
            elif missing == "error":
                raise InputError(
                    f"passage id {passage_id!r} is not in {', '.join(map(str, self.paths))}; "
                    "give the ids of the corpus the index was built from"
                )
        return rows

    def close(self) -> None:
        """Close the files; reading afterwards is an error. Happens by itself at the end of life."""
        self._close()

    def _ids(self) -> IdTable:
        if self._layout.ids is None:
            layout = _scanned(self._plain, self.paths, check=True)
            if layout.fingerprint != self.fingerprint:
                raise InputError(f"{self.paths[0]}: changed since it was opened; open it again")
            self._layout = layout
        assert self._layout.ids is not None
        return self._layout.ids

    def _row_of(self, passage_id: str, table: IdTable) -> int | None:
        key = np.frombuffer(id_hash(passage_id), np.uint64)[0]
        place = int(np.searchsorted(table.hashes, key))
        while place < len(table.hashes) and table.hashes[place] == key:
            row = int(table.rows[place])
            if self[row].id == passage_id:
                return row
            place += 1
        return None


def _scanned(plain: Sequence[Path], named: Sequence[Path], *, check: bool) -> Layout:
    """Scan the files, refuse repeated ids, keep what was found in the cache."""
    state = file_state(plain)
    layout = scan(plain, named, check=check)
    if layout.ids is not None:
        _refuse_duplicates(PassageStore(named, plain, layout), layout.ids)
    save_layout(plain, layout, state)
    return layout


def _refuse_duplicates(store: PassageStore, ids: IdTable) -> None:
    for first, second in repeated(ids):
        one, other = store.passages([first, second])
        if one.id == other.id:
            raise InputError(
                f"{_place(store, second)}: id {other.id!r} was used before at "
                f"{_place(store, first)}; give every passage its own id"
            )


def _place(store: PassageStore, row: int) -> str:
    lines = store._layout.lines
    for path, count in zip(store.paths, lines, strict=True):
        if row < count:
            return f"{path}:{row + 1}"
        row -= count
    raise AssertionError(row)


def _close_all(files: list[int]) -> None:
    for file in files:
        os.close(file)
    files.clear()
