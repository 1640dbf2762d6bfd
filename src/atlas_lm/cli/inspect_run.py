"""What became of a run: its curves in the terminal, where its time went, and its card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.columns import Columns
from rich.console import Console
from rich.table import Table

from atlas_lm import __version__
from atlas_lm.config import RunConfig, load_recipe, read_toml
from atlas_lm.evaluation import Metrics, RunFacts, write_run_card
from atlas_lm.evaluation.curves import panels
from atlas_lm.evaluation.terminal import draw
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.files import read_json
from atlas_lm.runtime.logs import notice
from atlas_lm.runtime.structure import changed_from_defaults, unstructure
from atlas_lm.training.checkpoint import Checkpoints, known_best
from atlas_lm.training.run_log import LOG_FILE, PHASES_FILE, read_log

CARD = "run_card.html"
NOTE = "Written by atlas-lm inspect from the log of the run."
_STALENESS = ("steps_since_refresh", "staleness_drift", "staleness_topk_overlap")
_OF_THE_CLOCK = ("share_", "peak_mb_")


def read_history(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's log; a line cut short by a kill is left out.

    Raises:
        InputError: there is no log, or nothing in it.
    """
    log = path / LOG_FILE
    if not log.is_file():
        raise InputError(f"{path}: no run ({LOG_FILE}) there")
    if not (rows := read_log(log)):
        raise InputError(f"{log}: empty; nothing was logged yet")
    return rows


def show_run(path: Path) -> Path:
    """Draw a run's curves and phases, and write its card; return the card's path.

    Raises:
        InputError: ``path`` is no run, or nothing was logged yet.
    """
    history = read_history(path)
    console = Console()
    curves = [{k: v for k, v in row.items() if not k.startswith(_OF_THE_CLOCK)} for row in history]
    main, rest = panels(curves)
    console.print(Columns([draw(panel) for panel in main or rest], padding=(1, 4)))
    if phases := read_phases(path, history):
        console.print(_phase_table(phases))
    if best := _best(path):
        console.print(f"best by {best['metric']}: {best['value']:.4g} at step {best['step']}")
    card = write_card(path, history)
    notice(f"run card: {card}")
    return card


def read_phases(path: Path, history: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return each phase's share and peak: of the whole run, or of its log while it goes on."""
    file = path / PHASES_FILE
    if file.is_file():
        found: dict[str, dict[str, Any]] = read_json(file, what="phases")["phases"]
        return found
    rows = [row for row in history if "share_other" in row]
    names = dict.fromkeys(
        name.removeprefix("share_") for row in rows for name in row if name.startswith("share_")
    )
    return {
        name: {
            "share": sum(row.get(f"share_{name}") or 0.0 for row in rows) / len(rows),
            "peak_mb": max((row.get(f"peak_mb_{name}") or 0.0 for row in rows), default=0.0)
            or None,
        }
        for name in names
    }


def write_card(path: Path, history: Sequence[Mapping[str, Any]]) -> Path:
    """Write ``run_card.html``; a card with measurements before and after stays as it is."""
    card = path / CARD
    if card.is_file() and NOTE not in card.read_text("utf-8"):
        return card
    recipe = path / "recipe.toml"
    tables = read_toml(recipe) if recipe.is_file() else {}
    joint = recipe.is_file() and tables.get("kind", "joint") == "joint"
    config = load_recipe(recipe, (), RunConfig) if joint else RunConfig()
    latest = {name: value for row in history for name, value in row.items()}
    phases = read_phases(path, history)
    write_run_card(
        card,
        title=str(tables.get("title") or path.resolve().name),
        config=unstructure(config) if joint else tables,
        history=[{k: v for k, v in row.items() if not k.startswith("peak_mb_")} for row in history],
        before=Metrics({}),
        after=Metrics({}),
        comparisons=[],
        examples_before_after=[],
        notes=[NOTE],
        changed=list(changed_from_defaults(config)),
        facts=RunFacts(
            collapse=_present(latest, "distinct_passages"),
            staleness=_present(latest, *_STALENESS, "passages_embedded"),
            timings={
                f"{name} ({row['share']:.0%})": row["seconds"]
                for name, row in phases.items()
                if "seconds" in row
            },
            versions={"atlas-lm": __version__},
        ),
    )
    return card


def _phase_table(phases: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table("phase", title="where the time went", box=None)
    for name in ("share", "", "peak memory"):
        table.add_column(name, justify="left" if not name else "right")
    for name, row in sorted(phases.items(), key=lambda entry: -(entry[1]["share"] or 0)):
        peak = f"{row['peak_mb']:,.0f} MB" if row.get("peak_mb") else ""
        table.add_row(name, f"{row['share']:.1%}", "█" * round(30 * row["share"]), peak)
    return table


def _best(path: Path) -> dict[str, Any] | None:
    checkpoints = reversed(Checkpoints(path / "checkpoints").all())
    return next((best for each in checkpoints if (best := known_best(each))), None)


def _present(latest: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: latest[name] for name in names if name in latest}
