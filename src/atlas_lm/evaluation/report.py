"""Results for people (tables, x100) and for machines (JSON, fractions)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from atlas_lm.evaluation.bootstrap import Comparison, Estimate
from atlas_lm.evaluation.metrics import MRR_DEPTH
from atlas_lm.evaluation.records import Metrics
from atlas_lm.runtime.logs import verbatim

_NAMES = {
    "exact_match": "exact match",
    "f1": "F1",
    "rouge_l": "ROUGE-L",
    "mrr": f"MRR@{MRR_DEPTH}",
    "gold_mrr": f"MRR@{MRR_DEPTH}, gold passages",
    "debiased_accuracy": "accuracy, de-biased",
    "leaked": "leak rate",
    "r_precision": "R-precision, pages",
    "page_recall_at_5": "R@5, pages",
    "kilt_accuracy": "KILT accuracy",
    "kilt_exact_match": "KILT exact match",
    "kilt_f1": "KILT F1",
    "kilt_rouge_l": "KILT ROUGE-L",
}


def metrics_table(metrics: Metrics, *, title: str = "") -> Table:
    """Return a table of every metric, x100, with its 95% interval and number of examples."""
    table = Table(
        title=verbatim(title, "table.title") if title else None,
        caption="x100; in brackets the 95% bootstrap interval",
    )
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("examples", justify="right")
    for name, estimate in metrics.items():
        table.add_row(display_name(name), show_estimate(estimate), f"{estimate.n:,}")
    return table


def comparison_table(comparisons: Sequence[Comparison], *, title: str = "") -> Table:
    """Return a table of before, after and their paired difference, x100, with the verdict."""
    table = Table(
        title=title or None,
        caption="x100; in brackets the 95% bootstrap interval, paired for the difference",
    )
    table.add_column("metric")
    for column in ("before", "after", "difference", "examples"):
        table.add_column(column, justify="right")
    table.add_column("verdict")
    for comparison in comparisons:
        table.add_row(
            display_name(comparison.name),
            show_estimate(comparison.before),
            show_estimate(comparison.after),
            show_estimate(comparison.difference, signed=True),
            f"{comparison.difference.n:,}",
            comparison.verdict,
            style="bold" if comparison.is_beyond_noise else None,
        )
    return table


def to_json(metrics: Metrics) -> dict[str, Any]:
    """Return ``name -> {mean, low, high, n}``, fractions in [0, 1]."""
    return metrics.to_dict()


def comparisons_to_json(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Return ``name -> {before, after, difference, changed, verdict}``, fractions."""
    return {
        comparison.name: {
            "before": comparison.before.to_dict(),
            "after": comparison.after.to_dict(),
            "difference": comparison.difference.to_dict(),
            "changed": comparison.changed,
            "verdict": comparison.verdict,
        }
        for comparison in comparisons
    }


def show_estimate(estimate: Estimate, *, signed: bool = False) -> str:
    """Return ``mean [low, high]``, x100 with one decimal."""
    mean, low, high = (
        show_percent(number, signed=signed)
        for number in (estimate.mean, estimate.low, estimate.high)
    )
    return f"{mean} [{low}, {high}]"


def show_percent(number: float, *, signed: bool = False) -> str:
    """Return a fraction x100 with one decimal; never a negative zero."""
    rounded = round(100 * number, 1) + 0.0
    return f"{rounded:+.1f}" if signed else f"{rounded:.1f}"


def display_name(name: str) -> str:
    """Return a metric's name as people write it: ``recall_at_5`` as R@5."""
    if name in _NAMES:
        return _NAMES[name]
    kind, found, depth = name.partition("recall_at_")
    if found and depth.isdigit():
        return f"R@{depth}" + (", gold passages" if kind == "gold_" else "")
    return name.replace("_", " ")
