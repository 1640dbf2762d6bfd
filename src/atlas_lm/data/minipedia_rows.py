"""The questions of Minipedia as rows of the ``qa`` task, and how they are divided."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from atlas_lm.data.minipedia_sources import Sources
from atlas_lm.data.subsets import Subsets
from atlas_lm.data.supported import Evidence, bare_title
from atlas_lm.runtime.normalization import normalize_answer
from atlas_lm.tasks import sample_shots
from atlas_lm.types import Example, Passage

VALIDATION_SHARE = 5
"""One supported dev question in this many is kept for choosing hyper-parameters."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One question of the benchmark."""

    id: str
    """Source file and row in it, as in ``triviaqa-test-17``."""
    question: str
    answers: tuple[str, ...]
    target: str
    """The answer to train on; see `choose_target`."""
    source: str
    """``nq``, ``triviaqa`` or ``webq``."""
    split: str
    """``dev``, ``test``, or ``extra`` for training questions beyond dev."""
    evidence: Evidence

    def to_dict(self) -> dict[str, Any]:
        """Return the row as it stands in the files.

        ``gold_passage_ids`` are the supporting passages; where there are none those that hold an
        answer; the field is absent where there are none either.
        """
        gold = self.evidence.bearing
        return {
            "id": self.id,
            "question": self.question,
            "answers": list(self.answers),
            "target": self.target,
            "source": self.source,
            **({"gold_passage_ids": [f"lead-{row}" for row in gold]} if gold else {}),
        }


def make_rows(sources: Sources, subsets: Subsets) -> list[Row]:
    """Return every question, in an order drawn by id, so that any beginning is a fair sample."""
    rows = []
    wording = Wording.of(sources.passages)
    for name, questions in sources.questions.items():
        source, published = name.rsplit("-", 1)
        for number, question in enumerate(questions):
            evidence = subsets.evidence[name].get(number, Evidence())
            rows.append(
                Row(
                    id=f"{name}-{number}",
                    question=question.text,
                    answers=question.answers,
                    target=choose_target(question.answers, evidence.bearing, wording),
                    source=source,
                    split="extra" if source == "webq" else published,
                    evidence=evidence,
                )
            )
    return sorted(rows, key=lambda row: _digest(row.id))


@dataclass(frozen=True)
class Wording:
    """How the corpus words things; see `choose_target`."""

    titles: Sequence[str]
    """Every passage's title, normalised, without what it has in brackets."""
    texts: Sequence[str]
    """Every passage's title and text."""

    @cached_property
    def known_titles(self) -> frozenset[str]:
        """The titles that name something."""
        return frozenset(self.titles) - {""}

    @classmethod
    def of(cls, passages: Sequence[Passage]) -> Wording:
        """Return the wording of a corpus."""
        return cls(
            [bare_title(passage.title) for passage in passages],
            [f"{passage.title} {passage.text}" for passage in passages],
        )


def choose_target(answers: Sequence[str], gold: Sequence[int], wording: Wording) -> str:
    """Return the accepted answer to train on: the one that the corpus would write.

    TriviaQA lists its aliases in no order, and the first may be one that nobody would write. An
    answer is chosen among those that the gold passages hold, where there are any: first one that
    is the title of a gold passage, then of any passage, then the one that occurs most often in
    the gold passages, then the longest; among spellings of one answer, the one found letter for
    letter, then the shortest. Where no answer is held or a title, it is the first.
    """
    raw = "\n".join(wording.texts[row] for row in gold)
    lowered = raw.lower()
    held = f" {' | '.join(normalize_answer(wording.texts[row]) for row in gold)} "
    gold_titles = {wording.titles[row] for row in gold}
    titles = wording.known_titles

    def fitness(answer: str) -> tuple[float, ...]:
        plain = normalize_answer(answer)
        return (
            plain in gold_titles,
            plain in titles,
            held.count(f" {plain} "),
            len(plain),
            answer in raw,
            answer.lower() in lowered,
            -len(answer),
        )

    normalized = {answer: normalize_answer(answer) for answer in answers}
    fit = [answer for answer, plain in normalized.items() if plain and f" {plain} " in held]
    fit = fit or [answer for answer, plain in normalized.items() if plain in titles]
    return max(fit, key=fitness, default=answers[0])


def without_test_questions(rows: Sequence[Row]) -> tuple[list[Row], int]:
    """Return the rows without those training questions that the test sets ask too, and how many."""
    tested = {normalize_answer(row.question) for row in rows if row.split == "test"}
    kept = [
        row for row in rows if row.split == "test" or normalize_answer(row.question) not in tested
    ]
    return kept, len(rows) - len(kept)


def split_validation(dev: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Return training and validation questions; which one a question is depends on its words only.

    So a question that is asked twice is on one side.
    """
    held_out = [_digest(normalize_answer(row.question)) % VALIDATION_SHARE == 0 for row in dev]
    train = [row for row, out in zip(dev, held_out, strict=True) if not out]
    validation = [row for row, out in zip(dev, held_out, strict=True) if out]
    return train, validation


def draw_shots(rows: Sequence[Row], k: int, seed: int) -> list[Row]:
    """Return ``k`` rows drawn by `atlas_lm.tasks.sample_shots`."""
    by_id = {row.id: row for row in rows}
    examples = [
        Example(id=row.id, query=row.question, target=row.target, answers=row.answers)
        for row in rows
    ]
    return [by_id[example.id] for example in sample_shots(examples, k, seed)]


def answers_also_in_training(rows: Sequence[Row]) -> Mapping[str, float]:
    """Return for each source the share of test questions with an answer known from training.

    An answer is known when it is, normalised, among the accepted answers of any dev question of
    these rows. Memory alone could answer such a question (Lewis et al. 2021).
    """
    known = {normalize_answer(a) for row in rows if row.split == "dev" for a in row.answers} - {""}
    shares = {}
    for source in sorted({row.source for row in rows if row.split == "test"}):
        tested = [row for row in rows if row.split == "test" and row.source == source]
        seen = sum(
            any(normalize_answer(answer) in known for answer in row.answers) for row in tested
        )
        shares[source] = round(seen / len(tested), 4)
    return shares


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.sha256(f"minipedia {text}".encode()).digest()[:8])
