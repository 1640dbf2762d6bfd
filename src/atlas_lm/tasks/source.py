"""Sources of examples: one or several data files, any example by its position.

A position always gives the same example, whatever was read before, so the order of a training run
is a permutation of positions, a resumed run continues it, and ranks may share it out. Memory does
not grow with the data but for 8 bytes a row while ids are read, and about 25 while they are
compared.
"""

from __future__ import annotations

import hashlib
import math
import operator
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np

from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.logs import track
from atlas_lm.tasks import fields
from atlas_lm.tasks.base import Task, TaskConfig
from atlas_lm.tasks.registry import make_task
from atlas_lm.tasks.rows import Rows, open_rows
from atlas_lm.types import Example


class Source(Sequence[Example]):
    """Examples by position: `len`, ``source[position]``, and what they are."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """What the examples are: a resumed run must find the same."""

    @abstractmethod
    def example(self, position: int) -> Example:
        """Return the example at a position from 0 to ``len - 1``, the same at every call."""

    @overload
    def __getitem__(self, position: int) -> Example: ...
    @overload
    def __getitem__(self, position: slice) -> list[Example]: ...
    def __getitem__(self, position: int | slice) -> Example | list[Example]:
        if isinstance(position, slice):
            return [self.example(each) for each in range(*position.indices(len(self)))]
        place = operator.index(position)
        place += len(self) if place < 0 else 0
        if not 0 <= place < len(self):
            raise IndexError(f"example {position} of {len(self)}")
        return self.example(place)


class Examples(Source):
    """The examples of one data file, each row processed when it is asked for.

    Where the task has several variants of a row (`Task.draws`) they follow one another in passes:
    position ``draw * rows + row``.
    """

    def __init__(
        self, rows: Rows, task: Task, *, limit: int | None = None, variants: bool = False
    ) -> None:
        self.task = task
        self._rows = rows
        self._count = len(rows) if limit is None else min(limit, len(rows))
        self._draws = task.draws if variants else 1

    @classmethod
    def open(
        cls,
        path: str | Path,
        task: Task | TaskConfig,
        *,
        require_answers: bool = True,
        limit: int | None = None,
        variants: bool = False,
    ) -> Examples:
        """Open a JSONL file (``.gz``, ``.zst`` too) or a directory of ``save_to_disk``.

        Every row has been processed once when this returns, so that a wrong one is known before
        anything is trained.

        Args:
            path: the data file.
            task: what turns rows into examples, or the config that names it.
            require_answers: refuse rows with no answer to train on or to compare with.
            limit: the first so many rows and no more.
            variants: whether every variant of a row is an example, as in training.

        Raises:
            InputError: no such file, an empty one, a wrong row or an id used twice, which is named.
        """
        if isinstance(task, TaskConfig):
            task = make_task(task)
        examples = cls(open_rows(path), task, limit=limit, variants=variants)
        examples.check(require_answers=require_answers)
        return examples

    def __len__(self) -> int:
        return self._count * self._draws

    @property
    def digest(self) -> str:
        """Made of the rows, the task and how many are read."""
        return digest_of(self._rows.digest, self.task.config, self._count, self._draws)

    def example(self, position: int) -> Example:
        """Return the example at a position.

        Raises:
            InputError: the row is not what the task expects.
        """
        draw, row = divmod(position, self._count)
        example = self.task.process(self._rows.row(row), place=self._rows.place(row))
        return self.task.variant(example, draw) if self._draws > 1 else example

    def check(self, *, require_answers: bool) -> None:
        """Process every row once.

        Raises:
            InputError: see `open`.
        """
        hashes = np.empty(self._count, np.uint64)
        for row in track(range(self._count), "Checking examples"):
            place = self._rows.place(row)
            raw = self._rows.row(row)
            example = self.task.process(raw, place=place)
            if require_answers and not example.answers:
                raise fields.missing(raw, self.task.answer_field, place=place)
            hashes[row] = _hash(example.id)
        _refuse_repeats(hashes, self._rows)


@dataclass(frozen=True)
class Part:
    """One source of a mixture."""

    name: str
    """What its examples' ids begin with."""
    source: Source
    weight: float
    """Its share of the mixture, relative to the other weights."""


class Mixture(Source):
    """Several sources by weight.

    One pass is as long as it must be for every example to come at least once: the source that is
    largest for its weight comes about once, the others are repeated, each of its examples as often
    as the next one but for a remainder, which the seed chooses. Shares are exact over a pass. The
    sources follow one another; whoever trains on them shuffles positions.

    Raises:
        InputError: there is no part, or a weight is not above 0.
    """

    def __init__(self, parts: Sequence[Part], *, seed: int = 0) -> None:
        if not parts:
            raise InputError("a mixture needs at least one source")
        for part in parts:
            if not 0 < part.weight < math.inf:
                raise InputError(
                    f"data.mix: weight={part.weight} of {part.name!r}; give a finite number above "
                    "0, or leave the source out"
                )
        self.parts = tuple(parts)
        self.seed = seed
        weights = sum(part.weight for part in parts)
        whole = max(len(part.source) * weights / part.weight for part in parts)
        counts = [
            max(len(part.source), round(whole * part.weight / weights)) for part in self.parts
        ]
        self._first = np.cumsum([0, *counts])

    def __len__(self) -> int:
        return int(self._first[-1])

    @property
    def digest(self) -> str:
        """Made of the sources, their weights and the seed."""
        parts = [(part.name, part.source.digest, part.weight) for part in self.parts]
        return digest_of("mixture", parts, self.seed)

    @property
    def shares(self) -> dict[str, float]:
        """Share of each part in one pass, by name."""
        counts = np.diff(self._first) / len(self)
        return {part.name: float(n) for part, n in zip(self.parts, counts, strict=True)}

    def example(self, position: int) -> Example:
        """Return the example at a position; its id begins with its source's name."""
        number = int(np.searchsorted(self._first, position, side="right")) - 1
        part = self.parts[number]
        start = int(digest_of("start", self.seed, part.name), 16)
        row = (start + position - int(self._first[number])) % len(part.source)
        example = part.source[row]
        return example.renamed(f"{part.name}/{example.id}")


class Chosen(Source):
    """Some positions of a source, in a given order: few-shot draws."""

    def __init__(self, source: Source, positions: Sequence[int]) -> None:
        self._source = source
        self._positions = tuple(positions)

    def __len__(self) -> int:
        return len(self._positions)

    @property
    def digest(self) -> str:
        """Made of the source and the positions."""
        return digest_of(self._source.digest, self._positions)

    def example(self, position: int) -> Example:
        """Return the example at a position."""
        return self._source[self._positions[position]]


def digest_of(*facts: object) -> str:
    """Return 16 hexadecimal digits that stand for ``facts`` as they are written out."""
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def repeated_rows(hashes: np.ndarray) -> list[int]:
    """Return, in ascending order, the places whose hash stands at another place, too."""
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    same = np.flatnonzero(ordered[1:] == ordered[:-1])
    found: list[int] = np.unique(order[np.concatenate([same, same + 1])]).tolist()
    return found


def _refuse_repeats(hashes: np.ndarray, rows: Rows) -> None:
    first: dict[str, int] = {}
    for row in repeated_rows(hashes):
        name = str(rows.row(row)["id"])
        if name in first:
            raise InputError(
                f"{rows.place(row)}: id {name!r} was used at {rows.place(first[name])} already; "
                "make ids unique, or leave them out to number the rows by line"
            )
        first[name] = row
