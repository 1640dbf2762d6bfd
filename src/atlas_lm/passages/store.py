"""Passages on disk, read by row: nothing is held in memory but mapped arrays of line offsets.

- A row is a line; several files count on, in the order given.
- A read is one `os.pread` and one parse; rows that follow one another are read in one piece. No
  position is shared, so threads and forked workers may read at once.
- Offsets, fingerprint and id hashes come from one scan of each file and are kept in the cache
  directory (`sidecar`); files that were seen before open in milliseconds, whatever they are joined
  with.
- A file that cannot be read by row (``.gz`` and others) is converted once into the cache directory.
- Rows can be hidden: they are read like any other, but their ids count for nothing.
"""

from __future__ import annotations

import operator
import os
import weakref
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from atlas_lm.passages.convert import FORMS, Source, open_source
from atlas_lm.passages.jsonl import parse_passage
from atlas_lm.passages.repeats import joint_fingerprint, live_repeat, repeated_rows
from atlas_lm.passages.scan import id_hash, scan
from atlas_lm.passages.sidecar import IdTable, Layout, load_layout
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.logs import progress_bar
from atlas_lm.types import Passage

FORGET_ROWS = 256
"""Reading so many rows in one piece is a pass over the corpus: mapped pages are let go."""


class PassageStore:
    """A corpus: `len`, ``store[row]``, `passages` by rows, `rows_of` by ids. Safe to share."""

    def __init__(
        self,
        paths: Sequence[Path],
        sources: Sequence[Source],
        layouts: Sequence[Layout],
        hidden: NDArray[np.int64] | None = None,
    ) -> None:
        self.paths = tuple(paths)
        """The files, as they were named."""
        self.hidden = hidden
        """Rows whose ids count for nothing, sorted; None where there are none."""
        self._sources = tuple(sources)
        self._layouts = list(layouts)
        self._first_row = np.cumsum([0, *(layout.lines for layout in layouts)])
        self._files = [os.open(path, os.O_RDONLY) for path in self.plain_paths]
        self._close = weakref.finalize(self, _close_all, self._files)

    @classmethod
    def open(
        cls,
        paths: str | Path | Sequence[str | Path],
        *,
        check: bool = True,
        hidden: NDArray[np.int64] | None = None,
    ) -> PassageStore:
        """Open passage files as one corpus.

        With ``check`` every line has been validated, now or at an earlier opening of the same
        files; without it a bad line is an error only when it is read. Only files that were not
        seen before, or changed, are read.

        Args:
            paths: one or several files, in order.
            check: whether to validate.
            hidden: rows that are dead: an id may be used again by a live row, and `rows_of` does
                not find them. `passages` still reads them, and they count in `len`.

        Raises:
            InputError: a file is missing or empty; with ``check`` also a line that is no passage
                or an id that occurs twice among live rows. The message names file and line.
        """
        named = [Path(paths)] if isinstance(paths, str | Path) else [Path(path) for path in paths]
        if not named:
            raise InputError(f"no passage file given; name at least one: {FORMS}")
        sources = [open_source(path) for path in named]
        store = cls(named, sources, _layouts(sources, check=check), _checked(hidden))
        if hidden is not None and len(hidden) and hidden[-1] >= len(store):
            raise InputError(
                f"{', '.join(map(str, named))}: row {hidden[-1]} is to be hidden, but there are "
                f"{len(store)} passages; open the files the rows were hidden in"
            )
        if check:
            store._refuse_repeats()
        return store

    def __len__(self) -> int:
        return int(self._first_row[-1])

    def __getitem__(self, row: int) -> Passage:
        return self.passages([operator.index(row)])[0]

    def __iter__(self) -> Iterator[Passage]:
        for start in range(0, len(self), 1024):
            yield from self.passages(range(start, min(start + 1024, len(self))))

    @property
    def fingerprint(self) -> str:
        """What the passages are, whether the files are packed or not.

        Of one file: the SHA-256 of its lines. Of several: made of those in order, so that a file
        more does not cost reading the others again.
        """
        return joint_fingerprint(self.fingerprints)

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """The fingerprint of each file."""
        return tuple(layout.fingerprint for layout in self._layouts)

    @property
    def plain_paths(self) -> tuple[Path, ...]:
        """The files that are read: those named, or their converted copies."""
        return tuple(source.plain for source in self._sources)

    @property
    def sha256(self) -> tuple[str, ...]:
        """SHA-256 of each file's content, as JSONL."""
        return tuple(layout.sha256 for layout in self._layouts)

    @property
    def counts(self) -> tuple[int, ...]:
        """Passages in each file."""
        return tuple(layout.lines for layout in self._layouts)

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
        if files[0] == files[-1] and bool(np.all(wanted[1:] - wanted[:-1] == 1)):
            return self._run(int(files[0]), int(wanted[0]), len(wanted))
        lines = wanted - self._first_row[files]
        starts, ends = np.empty_like(lines), np.empty_like(lines)
        for file in np.unique(files).tolist():
            mine, offsets = files == file, self._layouts[file].offsets
            starts[mine], ends[mine] = offsets[lines[mine]], offsets[lines[mine] + 1]
        sizes, numbers = ends - starts, lines + 1
        return [
            parse_passage(
                os.pread(self._files[file], size, start), self._sources[file].place, number
            )
            for file, size, start, number in zip(
                files.tolist(), sizes.tolist(), starts.tolist(), numbers.tolist(), strict=True
            )
        ]

    def _run(self, file: int, row: int, count: int) -> list[Passage]:
        """Return passages that follow one another in a file, read in one piece."""
        first, layout = row - int(self._first_row[file]), self._layouts[file]
        offsets = layout.offsets[first : first + count + 1]
        start, ends = int(offsets[0]), (offsets[1:] - offsets[0]).tolist()
        data = _read(self._files[file], ends[-1], start)
        if count >= FORGET_ROWS:
            layout.forget()
        return [
            parse_passage(data[begin:end], self._sources[file].place, line)
            for line, (begin, end) in enumerate(pairwise([0, *ends]), first + 1)
        ]

    def rows_of(
        self, ids: Iterable[str], *, missing: Literal["error", "skip"] = "error"
    ) -> list[int]:
        """Return the row of each passage id, in order; hidden rows are not found.

        Raises:
            InputError: an id is not in the corpus and ``missing`` is "error"; or the corpus was
                opened unchecked and does not pass the check that this needs.
        """
        ids = list(ids)
        found = self._found(ids) if ids else []
        if missing == "error" and None in found:
            raise InputError(
                f"passage id {ids[found.index(None)]!r} is not in "
                f"{', '.join(map(str, self.paths))}; "
                "give the ids of the corpus the index was built from"
            )
        return [row for row in found if row is not None]

    def close(self) -> None:
        """Close the files; reading afterwards is an error. Happens by itself at the end of life."""
        self._close()

    def _found(self, ids: Sequence[str]) -> list[int | None]:
        """Return the live row of each id, or None."""
        keys = np.frombuffer(b"".join(map(id_hash, ids)), np.uint64)
        found: list[int | None] = [None] * len(ids)
        for table, first in zip(self._tables(), self._first_row.tolist(), strict=False):
            places = np.searchsorted(table.hashes, keys)
            ends = np.searchsorted(table.hashes, keys, side="right")
            for number in np.flatnonzero(places < ends).tolist():
                for row in table.rows[places[number] : ends[number]].tolist():
                    if not self._is_hidden(first + row) and self[first + row].id == ids[number]:
                        found[number] = first + row
        return found

    def _is_hidden(self, row: int) -> bool:
        if self.hidden is None:
            return False
        place = int(np.searchsorted(self.hidden, row))
        return place < len(self.hidden) and int(self.hidden[place]) == row

    def _tables(self) -> list[IdTable]:
        """Return the ids of every file; the corpus is checked now if it was not."""
        if any(layout.ids is None for layout in self._layouts):
            layouts = _layouts(self._sources, check=True)
            if tuple(layout.fingerprint for layout in layouts) != self.fingerprints:
                raise InputError(f"{self.paths[0]}: changed since it was opened; open it again")
            self._layouts = layouts
            self._refuse_repeats()
        return [layout.ids for layout in self._layouts if layout.ids is not None]

    def repeats(self) -> NDArray[np.int64]:
        """Return the rows whose id occurs more than once, each with the first row of that id.

        Hidden rows are among them. Only rows whose ids may agree are read.

        Raises:
            InputError: the corpus was opened unchecked and a line is no passage.
        """
        unread = any(layout.ids is None for layout in self._layouts)
        layouts = _layouts(self._sources, check=True) if unread else self._layouts
        return repeated_rows(layouts, lambda row: self[row].id)

    def _refuse_repeats(self) -> None:
        found = live_repeat(self.repeats(), self.hidden)
        if found is not None:
            first, second = found
            raise InputError(
                f"{self.place(second)}: id {self[second].id!r} was used before at "
                f"{self.place(first)}; give every passage its own id"
            )

    def place(self, row: int) -> str:
        """Return ``file:line`` of a row, or ``file, row n`` where the file has no lines."""
        file = int(np.searchsorted(self._first_row, row, side="right")) - 1
        return f"{self._sources[file].place}{row - int(self._first_row[file]) + 1}"


def _layouts(sources: Sequence[Source], *, check: bool) -> list[Layout]:
    """Return the layout of every file: from the cache, or from a reading of it."""
    found = [load_layout(source.plain) for source in sources]
    todo = [n for n, layout in enumerate(found) if layout is None or (check and not layout.ids)]
    if todo:
        size = sum(sources[number].plain.stat().st_size for number in todo)
        with progress_bar() as progress:
            task = progress.add_task("Reading passages (MB)", total=-(-size >> 20))
            for number in todo:
                found[number] = scan(
                    sources[number].plain,
                    sources[number].place,
                    check=check,
                    advance=lambda read: progress.advance(task, read / 2**20),
                )
    return [layout for layout in found if layout is not None]


def _checked(hidden: NDArray[np.int64] | None) -> NDArray[np.int64] | None:
    if hidden is None or not len(hidden):
        return None
    rows = np.asarray(hidden, np.int64)
    if rows.ndim != 1 or rows[0] < 0 or bool(np.any(rows[1:] <= rows[:-1])):
        raise InputError("the hidden rows are not ascending; sort them and name each once")
    return rows


def _read(file: int, size: int, start: int) -> bytes:
    """Read ``size`` bytes; fewer only at the end of the file."""
    data = os.pread(file, size, start)
    while len(data) < size and (more := os.pread(file, size - len(data), start + len(data))):
        data += more
    return data


def _close_all(files: list[int]) -> None:
    for file in files:
        os.close(file)
    files.clear()
