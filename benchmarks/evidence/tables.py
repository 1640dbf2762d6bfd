"""Cells to Markdown: reading results, paired differences, and rows of tables."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from atlas_lm.evaluation.bootstrap import paired_difference
from atlas_lm.evaluation.report import show_percent

Cells = Mapping[str, dict[str, Any]]
"""Results by the cells' names."""


def read_cells(roots: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Return every result below the runs' directories, by name; sorted."""
    found = {}
    for root in roots:
        for file in sorted((root / "cells").rglob("*.json")):
            name = file.relative_to(root / "cells").with_suffix("").as_posix()
            found[name] = json.loads(file.read_text("utf-8"))
    return dict(sorted(found.items()))


def under(cells: Cells, prefix: str) -> dict[str, dict[str, Any]]:
    """Return the cells below a prefix, by the rest of their names."""
    return {
        name.removeprefix(prefix): cell for name, cell in cells.items() if name.startswith(prefix)
    }


def interval(estimate: Mapping[str, float], *, signed: bool = False) -> str:
    """Return ``mean [low, high]``, x100."""
    mean, low, high = (
        show_percent(estimate[key], signed=signed) for key in ("mean", "low", "high")
    )
    return f"{mean} [{low}, {high}]"


def difference(
    before: Mapping[str, Any], after: Mapping[str, Any], metric: str
) -> dict[str, float]:
    """Return the paired difference of a metric over the questions that both cells have."""
    first = dict(zip(before["ids"], before["values"].get(metric, ()), strict=False))
    second = dict(zip(after["ids"], after["values"].get(metric, ()), strict=False))
    both = [
        id for id in second if first.get(id) is not None and second[id] is not None and id in first
    ]
    found = paired_difference([first[id] for id in both], [second[id] for id in both])
    return {"mean": found.mean, "low": found.low, "high": found.high, "n": len(both)}


def over_seeds(estimates: Sequence[Mapping[str, float]], *, signed: bool = False) -> str:
    """Return one seed's interval, or of several the mean and the standard deviation."""
    if len(estimates) == 1:
        return interval(estimates[0], signed=signed)
    means = [estimate["mean"] for estimate in estimates]
    spread = show_percent(statistics.stdev(means))
    return f"{show_percent(statistics.mean(means), signed=signed)} ± {spread}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; the first column is text, the others are numbers."""
    rows = list(rows)
    if not rows:
        return ""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def commands(cells: Iterable[Mapping[str, Any]]) -> str:
    """Return the commands that ran these cells, and the versions and machine they ran on."""
    seen: dict[str, None] = {}
    facts: dict[str, None] = {}
    seconds = 0.0
    for cell in cells:
        by = cell["run_by"]
        seconds += cell["seconds"]
        seen[_without_paths(by["command"])] = None
        facts[f"torch {by['torch']}, {by['threads']} thread(s), {by['date']}"] = None
    lines = "".join(f"    {command}\n" for command in seen)
    return f"{lines}\n{'; '.join(facts)}; {seconds / 60:.0f} minutes in all.\n" if seen else ""


def _without_paths(command: str) -> str:
    """Return a command without the options that say where things lie on a machine."""
    words, kept, skip = command.split(), [], False
    for word in words:
        if skip or word in ("--out", "--joint", "--data"):
            skip = not skip
            continue
        kept.append(
            "benchmarks/evidence/" + word.rpartition("/")[2] if word.endswith(".py") else word
        )
    return " ".join(kept)


def summary(cell: Mapping[str, Any]) -> dict[str, Any]:
    """Return a cell without what it says of every question."""
    return {
        name: summary(value) if isinstance(value, dict) else value
        for name, value in cell.items()
        if name not in ("ids", "values", "run_by", "relations")
    }
