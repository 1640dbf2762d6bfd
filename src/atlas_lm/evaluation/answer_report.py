"""What an evaluation report says: four kinds of passages, calibration, and where answers stand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group
from rich.table import Table

from atlas_lm.evaluation.bootstrap import Comparison, Estimate, estimate
from atlas_lm.evaluation.calibration import Calibration, calibration_of, correctness
from atlas_lm.evaluation.evaluate import Evaluation, compare_records
from atlas_lm.evaluation.measures import is_of_answers
from atlas_lm.evaluation.metrics import answer_matcher
from atlas_lm.evaluation.records import AnswerRecord
from atlas_lm.evaluation.report import comparisons_to_json, display_name, show_estimate
from atlas_lm.types import Passage

LABELS = {
    "closed": "closed book: no passages",
    "open": "open book: retrieved passages",
    "oracle": "oracle: good passages first",
    "random": "random passages",
}
"""What the conditions are called in a report, in their order."""
Legible = Callable[[str, Passage], Passage]
"""What of a passage is read behind a query."""

_LEFT_OUT = ("rouge_l",)


@dataclass(frozen=True)
class Grounding:
    """Whether what was answered stands in the passages that were read."""

    contained: Estimate
    """Share of the answers that a passage contains in the part that is read."""
    contained_right: Estimate | None
    """The same of right answers; None where there are none."""
    contained_wrong: Estimate | None
    """The same of wrong ones: they were misled or misread, the others made up. An answer that no
    metric of `calibration.CORRECT` judges is neither right nor wrong."""
    reachable: Estimate | None
    """Share of the questions of whose answers a passage read contains one: what reading could
    reach."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, for JSON."""
        found = {
            "contained": self.contained,
            "contained_right": self.contained_right,
            "contained_wrong": self.contained_wrong,
            "reachable": self.reachable,
        }
        return {name: value.to_dict() if value else None for name, value in found.items()}


@dataclass(frozen=True)
class AnswerReport:
    """Everything a report says, without the single questions."""

    evaluations: Mapping[str, Evaluation]
    """By condition; see `conditions.measure_conditions`."""
    comparisons: Mapping[str, tuple[Comparison, ...]]
    """The answers of each other condition before, those of the open book after; paired."""
    calibration: Calibration | None
    """Of the open book's answers."""
    grounding: Grounding | None
    """Of the open book's answers."""
    n_context: int
    """Passages read per question."""

    def to_dict(self) -> dict[str, Any]:
        """Return fractions in [0, 1], for JSON."""
        return {
            "conditions": {
                name: evaluation.metrics.to_dict() for name, evaluation in self.evaluations.items()
            },
            "open_against": {
                name: comparisons_to_json(compared) for name, compared in self.comparisons.items()
            },
            "calibration": self.calibration.to_dict() if self.calibration else None,
            "grounding": self.grounding.to_dict() if self.grounding else None,
            "n_context": self.n_context,
        }


def make_report(
    evaluations: Mapping[str, Evaluation], n_context: int, legible: Legible
) -> AnswerReport:
    """Return the report of measured conditions, ``open`` among them.

    ``legible`` is the reader's (`types.Reader.legible`).
    """
    records = evaluations["open"].records
    others = {name: found for name, found in evaluations.items() if name != "open"}
    return AnswerReport(
        evaluations,
        {
            name: tuple(
                c for c in compare_records(found.records, records) if c.name in answer_names(found)
            )
            for name, found in others.items()
        },
        calibration_of(records),
        ground(records, n_context, legible),
        n_context,
    )


def answer_names(evaluation: Evaluation) -> list[str]:
    """Return the metrics of answers, not of retrieval; nor ROUGE-L beside exact match."""
    left_out = _LEFT_OUT if "exact_match" in evaluation.metrics else ()
    return [name for name in evaluation.metrics if is_of_answers(name) and name not in left_out]


def ground(records: Sequence[AnswerRecord], n_context: int, legible: Legible) -> Grounding | None:
    """Return how many answers stand in what is read of the first ``n_context`` passages.

    None without answers. Choices are left out: a label or option is not sought in a passage.
    """
    answered = [
        record for record in records if record.generated is not None and not record.example.choices
    ]
    if not answered:
        return None
    read = [_read_of(record, n_context, legible) for record in answered]
    inside = [
        _stands_in(texts, [record.generated.text])
        for texts, record in zip(read, answered, strict=True)
        if record.generated is not None
    ]
    judged = [
        (value, found == 1.0)
        for value, record in zip(inside, answered, strict=True)
        if (found := correctness(record)) is not None
    ]
    reachable = [
        _stands_in(texts, record.example.answers)
        for texts, record in zip(read, answered, strict=True)
        if record.example.answers
    ]
    return Grounding(
        estimate(inside),
        _share([value for value, is_right in judged if is_right]),
        _share([value for value, is_right in judged if not is_right]),
        _share(reachable),
    )


def _read_of(record: AnswerRecord, n_context: int, legible: Legible) -> list[str]:
    passages = [ranked.passage for ranked in record.passages[:n_context]]
    read = [legible(record.example.query, passage) for passage in passages]
    return [f"{passage.heading}\n{passage.text}" for passage in read]


def _stands_in(texts: Sequence[str], answers: Sequence[str]) -> float:
    matches = answer_matcher(answers)
    return float(any(map(matches, texts)))


def _share(values: Sequence[float]) -> Estimate | None:
    return estimate(values) if values else None


def report_tables(report: AnswerReport) -> Group:
    """Return the report as tables for a terminal."""
    first = Table(
        title=f"{report.n_context} passages a question",
        caption="x100; in brackets the 95% bootstrap interval",
    )
    names = answer_names(report.evaluations["open"])
    first.add_column("")
    for name in names:
        first.add_column(display_name(name), justify="right")
    for condition, evaluation in report.evaluations.items():
        cells = [
            show_estimate(evaluation.metrics[name]) if name in evaluation.metrics else ""
            for name in names
        ]
        style = "bold" if condition == "open" else None
        first.add_row(LABELS[condition], *cells, style=style)
    second = Table(title="the open book's answers")
    second.add_column("")
    second.add_column("", justify="right")
    for label, value in facts(report):
        second.add_row(label, value)
    return Group(first, second)


def facts(report: AnswerReport) -> list[tuple[str, str]]:
    """Return calibration and grounding as labels and values."""
    rows: list[tuple[str, str]] = []
    if (found := report.grounding) is not None:
        rows.append(("answers that a passage read contains", show_estimate(found.contained)))
        for label, value in (
            ("of the right ones", found.contained_right),
            ("of the wrong ones", found.contained_wrong),
            ("questions whose answer a passage read contains", found.reachable),
        ):
            if value is not None:
                rows.append((label, show_estimate(value)))
    if (sure := report.calibration) is not None:
        rows.append(("mean confidence", f"{100 * sure.confidence:.1f}"))
        rows.append(("share of right answers", f"{100 * sure.accuracy:.1f}"))
        error = 100 * sure.expected_calibration_error
        rows.append(("expected calibration error", f"{error:.1f}"))
        if sure.auroc is not None:
            rows.append(("AUROC of the log-probability", f"{sure.auroc:.3f}"))
    return rows
