"""``atlas-lm quickstart --tiny``: the made-up world, shown as one table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from atlas_lm.cli.common import print_json
from atlas_lm.cli.tiny import KS, TinyResult, run_tinyworld
from atlas_lm.evaluation import Metrics
from atlas_lm.evaluation.report import display_name, show_estimate, show_percent
from atlas_lm.runtime.logs import notice

METRICS = (*(f"recall_at_{k}" for k in KS), "exact_match")


def run_tiny(out: Path, overrides: Sequence[str], *, as_json: bool) -> int:
    """Run the made-up world under each objective and show what came of it."""
    result = run_tinyworld(out, overrides=overrides)
    if as_json:
        best = next(iter(result.objectives))
        print_json(
            {
                **result.to_dict(),
                "before": result.before.metrics.to_dict(),
                "after": {
                    name: objective.after.metrics.to_dict()
                    for name, objective in result.objectives.items()
                },
                "model": str(out / best / "model"),
                "index": str(out / best / "index"),
            }
        )
        return 0
    Console().print(_table(result))
    notice(f"{sum(result.seconds.values()):.0f} s in all; each run is a directory under {out}")
    return 0


def _table(result: TinyResult) -> Table:
    questions = len(result.before.records)
    table = Table(
        title=f"A made-up world: {result.passages} passages, {questions} unseen questions",
        caption="x100; in brackets the 95% bootstrap interval",
    )
    table.add_column("")
    for name in METRICS:
        table.add_column(display_name(name), justify="right")
    table.add_row("chance", *(show_percent(result.chance.get(name, 0.0)) for name in METRICS))
    table.add_row("as drawn", *_row(result.as_drawn.metrics))
    table.add_row("reader taught to read, retriever as drawn", *_row(result.before.metrics))
    for name, objective in result.objectives.items():
        table.add_row(f"both trained by {name}", *_row(objective.after.metrics), style="bold")
    return table


def _row(metrics: Metrics) -> list[str]:
    return [show_estimate(metrics[name]) for name in METRICS]
