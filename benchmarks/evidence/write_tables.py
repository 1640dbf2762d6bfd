"""Cells to docs/evidence.md: fill in its tables, draw its plots, keep the figures beside them.

python benchmarks/evidence/write_tables.py --runs runs/evidence/*

Tables stand in the document between ``<!-- table: NAME -->`` and ``<!-- end -->``; a name may hold
``*``. A place for which there are no cells among the runs is left as it is.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import minipedia_tables
import other_tables
import plots
from tables import Cells, commands, read_cells, summary

from atlas_lm.runtime.files import atomic_path, write_json
from atlas_lm.runtime.logs import notice

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"<!-- table: (?P<name>.*?) -->.*?<!-- end -->", re.DOTALL)


def tables(cells: Cells) -> dict[str, tuple[str, str]]:
    """Return every table by name, with the prefix of the cells it is made of."""
    made: dict[str, tuple[str, str]] = {}
    for on in minipedia_tables.sets(cells, "retrieval", "learn", "towers"):
        made[f"retrieval {on}"] = (minipedia_tables.retrieval(cells, on), "retrieval/ learn/")
        made[f"controls {on}"] = (minipedia_tables.against_controls(cells, on), "learn/")
        made[f"towers {on}"] = (minipedia_tables.towers(cells, on), "towers/")
    for asked in minipedia_tables.sets(cells, "prompt", "read", "variant"):
        made[f"answers {asked}"] = (minipedia_tables.answers(cells, asked), "prompt/ read/ joint/")
        made[f"variants {asked}"] = (minipedia_tables.variants(cells, asked), "variant/")
    for asked in minipedia_tables.sets(cells, "sizes"):
        made[f"sizes {asked}"] = (minipedia_tables.sizes(cells, asked), "sizes/")
    made["chosen"] = (minipedia_tables.chosen(cells), "tune/")
    made["knowledge"] = (other_tables.knowledge(cells), "knowledge/")
    made["dated"] = (other_tables.dated(cells), "knowledge/")
    made["parameters"] = (other_tables.parameters(cells), "parameters/")
    made["n_context"] = (other_tables.n_context(cells), "n_context/")
    for world in ("tiny", "minipedia"):
        made[f"loss lab {world}"] = (other_tables.loss_lab(cells, world), f"loss_lab/{world}/")
    return made


def fill_in(document: Path, cells: Cells) -> None:
    """Put the tables into their places in the document."""
    made = {name: parts for name, parts in tables(cells).items() if parts[0]}

    def filled(block: re.Match[str]) -> str:
        wanted = fnmatch.filter(made, block["name"])
        notice(f"{block['name']}: {', '.join(wanted) or 'left as it is'}")
        if not wanted:
            return block[0]
        parts = [_with_commands(name, *made[name], cells) for name in wanted]
        return f"<!-- table: {block['name']} -->\n\n{''.join(parts)}<!-- end -->"

    text = _BLOCK.sub(filled, document.read_text("utf-8"))
    with atomic_path(document) as temporary:
        temporary.write_text(text, "utf-8")


def _with_commands(name: str, table: str, prefixes: str, cells: Cells) -> str:
    of = [cell for key, cell in cells.items() if key.startswith(tuple(prefixes.split()))]
    return f"*{name}*\n\n{table}\nMade by\n\n{commands(of)}\n"


def draw(out: Path, cells: Cells) -> None:
    """Draw the plots that the cells allow."""
    curves = other_tables.parameter_curves(cells)
    if curves:
        series = {
            f"{label.split(',')[0].split(';')[0]}, {size:,} parameters": [
                (count, *_mean_interval(estimates)) for count, estimates in sorted(curve.items())
            ]
            for (label, size), curve in curves.items()
        }
        plots.lines(
            out / "parameters.png",
            series,
            title="Retrieval for parameters: the made-up world",
            x="facts in the world",
            y="exact match, x100",
        )
    for on in minipedia_tables.sets(cells, "learn"):
        points = minipedia_tables.gains(cells, on)
        if points:
            title = f"What the retriever gains, Minipedia {on}"
            plots.intervals(out / f"gains_{on}.png", points, title=title, x="R@5 gained, x100")
    _draw_n_context(out, cells)
    for world, title in (("tiny", "made-up world"), ("minipedia", "Minipedia")):
        points = other_tables.lab_points(cells, world)
        if points:
            plots.scatter(
                out / f"loss_lab_{world}.png",
                {name.upper(): [(x, 100 * y) for x, y in found] for name, found in points.items()},
                title=f"What the loss lab says and what training gains: {title}",
                x="rank agreement of the gold score with answer-bearing passages, before training",
                y="R@5 gained, x100",
            )
            verdict = other_tables.lab_verdict(cells, world)
            write_json(out / f"loss_lab_{world}_verdict.json", verdict)
            notice(f"loss lab, {world}: {verdict}")


def _draw_n_context(out: Path, cells: Cells) -> None:
    curves = other_tables.n_context_curves(cells)
    for world in ("made-up world", "Minipedia"):
        chosen = {label: curve for label, curve in curves.items() if label.startswith(world)}
        if not chosen:
            continue
        for what, unit, points in (
            ("em", "exact match, x100", _em_points),
            ("seconds", "milliseconds a question", _second_points),
        ):
            plots.lines(
                out / f"n_context_{world.replace(' ', '_').lower()}_{what}.png",
                {label: points(curve) for label, curve in chosen.items()},
                title=f"Number of passages read: {world}",
                x="passages read",
                y=unit,
            )


Lines = Sequence[tuple[float, float, float, float]]
EmOrTime = Callable[[Mapping[int, Any]], Lines]


def _em_points(curve: Mapping[int, Any]) -> Lines:
    return [
        (count, *_mean_interval([seed["em"] for seed in seeds])) for count, seeds in curve.items()
    ]


def _second_points(curve: Mapping[int, Any]) -> Lines:
    points = []
    for count, seeds in curve.items():
        values = [1000 * seed["seconds"] for seed in seeds]
        points.append((count, sum(values) / len(values), min(values), max(values)))
    return points


def _mean_interval(estimates: Sequence[Mapping[str, float]]) -> tuple[float, float, float]:
    """Return the mean over seeds, and the lowest and highest bound of theirs, x100."""
    mean = sum(estimate["mean"] for estimate in estimates) / len(estimates)
    low = min(estimate["low"] for estimate in estimates)
    high = max(estimate["high"] for estimate in estimates)
    return 100 * mean, 100 * low, 100 * high


def keep(out: Path, cells: Cells) -> None:
    """Write the figures of every cell, without single questions, one file a group."""
    groups: dict[str, dict[str, Any]] = {}
    for name, cell in cells.items():
        groups.setdefault(name.partition("/")[0], {})[name] = summary(cell)
    for group, found in groups.items():
        file = out / f"cells_{group}.json"
        known = read_known(file)
        write_json(file, dict(sorted({**known, **found}.items())))


def read_known(file: Path) -> dict[str, Any]:
    """Return what an earlier run has kept."""
    return json.loads(file.read_text("utf-8")) if file.is_file() else {}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, nargs="+", required=True, metavar="DIR")
    parser.add_argument("--document", type=Path, default=ROOT / "docs" / "evidence.md")
    parser.add_argument("--figures", type=Path, default=ROOT / "docs" / "evidence")
    args = parser.parse_args()
    cells = read_cells(args.runs)
    notice(f"{len(cells)} cells")
    fill_in(args.document, cells)
    draw(args.figures, cells)
    keep(args.figures, cells)


if __name__ == "__main__":
    main()
