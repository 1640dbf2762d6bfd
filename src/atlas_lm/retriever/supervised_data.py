"""Questions with positive and hard negative passages, for the training of DPR's kind.

Two formats. JSONL, one question a line:

    {"query": "...", "positive_passages": [P, ...], "negative_passages": [P, ...]}

where P is ``{"title": ..., "text": ...}`` or the id of a passage of a corpus; and DPR's own JSON
(Karpukhin et al. 2020), a list of ``{"question", "positive_ctxs", "hard_negative_ctxs",
"negative_ctxs"}``. Lines are read when they are needed; a JSON list is held in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from atlas_lm.passages.store import PassageStore
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.logs import progress_bar
from atlas_lm.runtime.shuffle import Epochs
from atlas_lm.types import Passage

Given = Passage | str
"""A passage, or the id of one."""


@dataclass(frozen=True)
class Judged:
    """A question with passages that answer it and passages that look as if they did."""

    query: str
    positives: tuple[Passage, ...]
    negatives: tuple[Passage, ...]


class JudgedQuestions:
    """Judged questions by position; a row is read and checked when it is asked for.

    Args:
        path: The data file.
        store: The corpus that passage ids are of; None where passages are written out.

    Raises:
        InputError: no such file, or an empty one.
    """

    def __init__(self, path: str | Path, store: PassageStore | None = None) -> None:
        self.path = Path(path)
        self.store = store
        if not self.path.is_file():
            raise InputError(f"{path}: no such file; give judged questions as JSONL or DPR's JSON")
        self._rows: list[Any] = []
        self._starts = self._lines = np.zeros(0, dtype=np.int64)
        with self.path.open("rb") as file:
            head = file.read(64).lstrip()
        if head.startswith(b"["):
            self._rows = _list_of(self.path)
        else:
            self._starts, self._lines = _lines_of(self.path)
        self._kept = np.arange(len(self._rows) or len(self._starts))
        if not len(self):
            raise InputError(f"{path}: no questions")

    def __len__(self) -> int:
        return len(self._kept)

    def answerable(self) -> JudgedQuestions:
        """Return the questions that have a positive passage. Every row has been read and is right.

        Raises:
            InputError: a row is malformed or names an unknown id, or none has a positive passage.
        """
        kept = []
        with progress_bar(transient=True) as progress:
            for row in progress.track(self._kept.tolist(), description="Checking questions"):
                if self._judged(row).positives:
                    kept.append(row)
        if not kept:
            raise InputError(f"{self.path}: no question has a positive passage")
        some = copy(self)
        some._kept = np.array(kept)
        return some

    def __getitem__(self, position: int) -> Judged:
        """Return a question with its passages.

        Raises:
            InputError: the row is malformed, has no positive passage, or names an unknown id.
        """
        number = int(self._kept[position])
        judged = self._judged(number)
        if not judged.positives:
            raise InputError(
                f"{self._place(number)}: no positive passage; leave such questions out"
            )
        return judged

    def place(self, position: int) -> str:
        """Return where a question is written, as messages name it."""
        return self._place(int(self._kept[position]))

    def _judged(self, number: int) -> Judged:
        """Return a row's question, whether it has a positive passage or not."""
        place = self._place(number)
        row = self._rows[number] if self._rows else self._line(number, place)
        if not isinstance(row, dict):
            raise InputError(f"{place}: expected a JSON object, found {type(row).__name__}")
        query = row.get("query", row.get("question"))
        if not isinstance(query, str) or not query.strip():
            raise InputError(f"{place}: field 'query' (or 'question') must be text")
        positives = self._passages(row, ("positive_passages", "positive_ctxs"), place)
        hard = self._passages(row, ("negative_passages", "hard_negative_ctxs"), place)
        return Judged(query, positives, hard or self._passages(row, ("negative_ctxs",), place))

    def _place(self, number: int) -> str:
        """Return where a row is: its line, or its place in a JSON list."""
        if self._rows:
            return f"{self.path}: question {number + 1}"
        return f"{self.path}:{self._lines[number]}"

    def _line(self, number: int, place: str) -> Any:
        with self.path.open("rb") as file:
            file.seek(int(self._starts[number]))
            line = file.readline()
        try:
            return orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise InputError(f"{place}: not valid JSON ({error})") from error

    def _passages(
        self, row: Mapping[str, Any], fields: Sequence[str], place: str
    ) -> tuple[Passage, ...]:
        field = next((name for name in fields if name in row), fields[0])
        listed = row.get(field, [])
        if not isinstance(listed, list):
            raise InputError(f"{place}: field {field!r} must be a list of passages or of ids")
        return tuple(self._passage(each, f"{place}: {field}") for each in listed)

    def _passage(self, given: Any, place: str) -> Passage:
        if isinstance(given, str):
            if self.store is None:
                raise InputError(
                    f"{place}: {given!r} is an id; name the corpus it is of (passages=...)"
                )
            found = self.store.rows_of([given], missing="skip")
            if not found:
                raise InputError(f"{place}: id {given!r} is not in the corpus")
            return self.store[found[0]]
        text = given.get("text") if isinstance(given, dict) else None
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"{place}: each passage needs 'text', or is an id")
        named = given.get("id", given.get("passage_id", given.get("docid", "")))
        return Passage(id=str(named), title=str(given.get("title") or ""), text=text)


@dataclass(frozen=True)
class QuestionSampler:
    """Batches of judged questions by step: every epoch its own order, from (seed, epoch)."""

    questions: JudgedQuestions
    batch_size: int
    hard_negatives: int
    seed: int

    def batch(self, step: int, share: range) -> list[Judged]:
        """Return the questions at the places ``share`` of a step's batch.

        Each has one positive, drawn, and at most ``hard_negatives`` negatives, drawn.
        """
        chosen = []
        for place in share:
            position = step * self.batch_size + place
            judged = self.questions[self._order[position]]
            rng = np.random.default_rng((self.seed, position, 1))
            positive = judged.positives[int(rng.integers(len(judged.positives)))]
            count = min(self.hard_negatives, len(judged.negatives))
            drawn = rng.choice(len(judged.negatives), count, replace=False) if count else ()
            negatives = tuple(judged.negatives[int(number)] for number in drawn)
            chosen.append(Judged(judged.query, (positive,), negatives))
        return chosen

    def named(self, step: int, share: range) -> list[str]:
        """Return where the questions of `batch` are written."""
        first = step * self.batch_size
        return [self.questions.place(self._order[first + place]) for place in share]

    @cached_property
    def _order(self) -> Epochs:
        return Epochs(len(self.questions), self.seed)


def _list_of(path: Path) -> list[Any]:
    try:
        rows = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise InputError(f"{path}: not valid JSON ({error}); expected DPR's list") from error
    return list(rows)


def _lines_of(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the first byte and the number of every line that is not blank."""
    starts, numbers, place = [], [], 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                starts.append(place)
                numbers.append(number)
            place += len(line)
    return np.array(starts, dtype=np.int64), np.array(numbers, dtype=np.int64)
