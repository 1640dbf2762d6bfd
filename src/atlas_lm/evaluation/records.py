"""What an evaluation leaves behind: a record for every example, and means with intervals."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from atlas_lm.evaluation.bootstrap import Estimate
from atlas_lm.runtime.files import atomic_path
from atlas_lm.types import Example, Generated, Passage

_OF_TASKS = ("accuracy", "debiased_accuracy", "r_precision")


@dataclass(frozen=True)
class RankedPassage:
    """A retrieved passage and what it is worth to the example."""

    passage: Passage
    score: float
    has_answer: bool
    """Whether heading or text contains an answer; see `metrics.has_answer`."""
    is_gold: bool
    """Whether its id is among the example's gold passage ids."""


@dataclass(frozen=True)
class AnswerRecord:
    """One example, what was answered, what was retrieved, and the metrics that apply to it."""

    example: Example
    generated: Generated | None
    passages: tuple[RankedPassage, ...]
    metrics: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return the line of the predictions file; a number that is not finite becomes null."""
        line: dict[str, Any] = {"id": self.example.id, "query": self.example.query}
        if self.generated is not None:
            line["answer"] = self.generated.text
            line["log_prob"] = _finite(self.generated.log_prob)
        line["answers"] = list(self.example.answers)
        if "exact_match" in self.metrics:
            line |= {"em": self.metrics["exact_match"], "f1": self.metrics.get("f1")}
        line |= {name: self.metrics[name] for name in _OF_TASKS if name in self.metrics}
        line["passages"] = [
            {"id": p.passage.id, "score": _finite(p.score), "has_answer": p.has_answer}
            for p in self.passages
        ]
        return line


@dataclass(frozen=True)
class Metrics(Mapping[str, Estimate]):
    """Means over examples by name, each with its 95% interval and its number of examples."""

    estimates: Mapping[str, Estimate]

    def __getitem__(self, name: str) -> Estimate:
        return self.estimates[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.estimates)

    def __len__(self) -> int:
        return len(self.estimates)

    def means(self) -> dict[str, float]:
        """Return the means alone, for a training log."""
        return {name: estimate.mean for name, estimate in self.estimates.items()}

    def to_dict(self) -> dict[str, dict[str, float | int]]:
        """Return plain numbers, for JSON."""
        return {name: estimate.to_dict() for name, estimate in self.estimates.items()}


def write_predictions(path: str | Path, records: Sequence[AnswerRecord]) -> None:
    """Write one JSON line a record, atomically."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        for record in records:
            file.write(orjson.dumps(record.to_json(), option=orjson.OPT_APPEND_NEWLINE))


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
