"""Examples made of the passages of a corpus."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from atlas_lm.passages.store import PassageStore
from atlas_lm.runtime.errors import InputError
from atlas_lm.tasks.pretext import PretextTask
from atlas_lm.tasks.source import Source, digest_of
from atlas_lm.types import Example, Passage

TRIES = 1000
"""A passage too short to make an example gives way to one of so many that follow it."""
NEIGHBOURS = 1000
"""Passages of the same document sought on either side."""


class PassageExamples(Source):
    """Examples of a pretext task over a passage store: position ``draw * passages + row``.

    Each excludes its own passage and, with ``task.pretext.same_document``, its document's others:
    those beside it with the same ``wikipedia_id`` or ``document``, or else the same title.

    Raises:
        InputError: among the first passages none is long enough.
    """

    def __init__(self, store: PassageStore, task: PretextTask) -> None:
        self.task = task
        self._store = store
        self.example(0)

    def __len__(self) -> int:
        return len(self._store) * self.task.config.pretext.draws

    @property
    def digest(self) -> str:
        """Made of the corpus and the task."""
        return digest_of(self._store.fingerprint, self.task.config)

    def example(self, position: int) -> Example:
        """Return the example at a position.

        Raises:
            InputError: neither the passage nor one that follows it can be cut.
        """
        draw, row = divmod(position, len(self._store))
        for step in range(min(TRIES, len(self._store))):
            place = (row + step) % len(self._store)
            if self._is_dead(place):
                continue
            example = self.task.of_passage(self._store[place], draw)
            if example is not None:
                return self._with_document(example, place)
        raise InputError(
            f"{self._store.place(row)}: {self.task.too_short}, and so it is with all that follow; "
            "give passages with text"
        )

    def _with_document(self, example: Example, row: int) -> Example:
        if not self.task.config.pretext.same_document:
            return example
        ids = {passage.id for step in (-1, 1) for passage in self._beside(row, step)}
        return replace(example, excluded_passage_ids=example.excluded_passage_ids | ids)

    def _beside(self, row: int, step: int) -> Iterator[Passage]:
        own = document_of(self._store[row])
        for distance in range(1, NEIGHBOURS + 1):
            other = row + step * distance
            if not own or not 0 <= other < len(self._store):
                return
            passage = self._store[other]
            if document_of(passage) != own:
                return
            yield passage

    def _is_dead(self, row: int) -> bool:
        hidden = self._store.hidden
        if hidden is None:
            return False
        place = int(np.searchsorted(hidden, row))
        return place < len(hidden) and int(hidden[place]) == row


def document_of(passage: Passage) -> str:
    """Return what the passages of one document share; empty where nothing says."""
    for name in ("wikipedia_id", "document"):
        if passage.metadata.get(name) not in (None, ""):
            return f"{name} {passage.metadata[name]}"
    return passage.title
