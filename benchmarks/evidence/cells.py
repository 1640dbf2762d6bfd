"""Runs of an experiment, one JSON file each: what is there is not run again."""

from __future__ import annotations

import argparse
import fnmatch
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from atlas_lm import __version__
from atlas_lm.evaluation import Evaluation
from atlas_lm.runtime.files import read_json, write_json
from atlas_lm.runtime.logs import notice


@dataclass(frozen=True)
class Cell:
    """One run: its result is ``OUT/<name>.json``."""

    name: str
    run: Callable[[], dict[str, Any]]
    seconds: float
    """Estimate on two cores."""


def add_cell_arguments(parser: argparse.ArgumentParser, *, out: str) -> None:
    parser.add_argument("--out", type=Path, default=Path(out), help=f"results (default: {out})")
    parser.add_argument(
        "--only", action="append", metavar="GLOB", help="cells to run, such as 'learn/*/emdr2*'"
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would be run, and stop")
    parser.add_argument("--threads", type=int, default=0, help="torch threads (0: torch's own)")


def run_cells(cells: Sequence[Cell], args: argparse.Namespace) -> None:
    """Run the cells whose result is missing, in order; say before what and how long."""
    if args.threads:
        torch.set_num_threads(args.threads)
    wanted = [cell for cell in cells if _matches(cell.name, args.only)]
    missing = [cell for cell in wanted if not result_path(args.out, cell.name).is_file()]
    total = sum(cell.seconds for cell in missing)
    notice(
        f"{len(wanted)} cells, {len(wanted) - len(missing)} done already; "
        f"{len(missing)} to run, about {_duration(total)} on two idle cores"
    )
    for cell in missing:
        notice(f"  {cell.name}  ({_duration(cell.seconds)})")
    if args.dry_run:
        return
    for number, cell in enumerate(missing, 1):
        notice(f"\n[{number}/{len(missing)}] {cell.name} (about {_duration(cell.seconds)})")
        started = time.perf_counter()
        result = cell.run()
        seconds = time.perf_counter() - started
        facts = {"cell": cell.name, "seconds": round(seconds, 1), "run_by": provenance()}
        write_json(result_path(args.out, cell.name), facts | result)
        notice(f"      {_duration(seconds)}  {_headline(result)}")


def result_path(out: Path, name: str) -> Path:
    """Return where a cell's result lies."""
    return out / "cells" / f"{name}.json"


def load_cell(out: Path, name: str) -> dict[str, Any]:
    """Return a cell's result; it must be there."""
    loaded: dict[str, Any] = read_json(result_path(out, name), what=f"the cell {name}; run it")
    return loaded


def provenance() -> dict[str, Any]:
    """Return the command, the versions and the machine."""
    return {
        "command": " ".join(["python", *map(shlex.quote, sys.argv)]),
        "date": time.strftime("%Y-%m-%d"),
        "atlas-lm": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def measured(evaluation: Evaluation, **more: Any) -> dict[str, Any]:
    """Return metrics with intervals, and the value of every question, for paired comparisons."""
    names = [name for name in evaluation.metrics if name != "rouge_l"]
    return {
        **more,
        "metrics": {name: evaluation.metrics[name].to_dict() for name in names},
        "ids": [record.example.id for record in evaluation.records],
        "values": {
            name: [_short(record.metrics.get(name)) for record in evaluation.records]
            for name in names
        },
    }


def _short(value: float | None) -> float | int | None:
    if value is None:
        return None
    return int(value) if value == int(value) else round(value, 4)


def _matches(name: str, patterns: Sequence[str] | None) -> bool:
    return patterns is None or any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _headline(result: dict[str, Any]) -> str:
    shown = ("exact_match", "recall_at_1", "recall_at_5", "recall_at_20")
    metrics = result.get("metrics", {})
    return "  ".join(
        f"{name} {100 * metrics[name]['mean']:.1f}" for name in shown if name in metrics
    )
