"""Tables of edited facts, parameters, numbers of passages, and the loss lab."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tables import Cells, interval, over_seeds, table, under

from atlas_lm.evaluation.bootstrap import estimate
from atlas_lm.evaluation.report import show_percent

Point = tuple[float, float]


def knowledge(cells: Cells) -> str:
    """Return the matrix: how many answers are the old and the new value, by kind of passages."""
    rows: list[list[str]] = []
    worlds: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for cell in under(cells, "knowledge/tiny-edited/").values():
        worlds["made-up world, questions trained on"].append(cell["train"])
        worlds["made-up world, questions never trained on"].append(cell["test"])
    for name, cell in under(cells, "knowledge/factbook-edited/").items():
        worlds[f"fact book, {name}"].append(cell)
    for world, seeds in worlds.items():
        for condition in seeds[0]["conditions"]:
            found = [seed["conditions"][condition] for seed in seeds]
            rows.append(
                [
                    f"{world}: {condition}",
                    _pooled([each["values"]["old"] for each in found]),
                    _pooled([each["values"]["new"] for each in found]),
                    str(sum(seed["questions"] for seed in seeds)),
                ]
            )
    return table(["", "answer is the old value", "answer is the edited value", "questions"], rows)


def _pooled(values: Sequence[Sequence[float]]) -> str:
    """Return the mean over the questions of all seeds with its interval."""
    return interval(estimate([value for seed in values for value in seed]).to_dict())


def dated(cells: Cells) -> str:
    """Return how many answers are the value of the year asked for."""
    rows = []
    worlds: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for kind, label in (("tiny", "made-up world"), ("factbook", "fact book")):
        for name, cell in under(cells, f"knowledge/{kind}-dated/").items():
            world = label if kind == "tiny" else f"{label}, {name}"
            for year, found in cell["years"].items():
                worlds[world, year].append(found)
    for (world, year), seeds in worlds.items():
        rows.append(
            [
                f"{world}, as of {year}",
                over_seeds([seed["this year's"] for seed in seeds]),
                over_seeds([seed["another year's"] for seed in seeds]),
            ]
        )
    return table(["", "that year's value", "another year's"], rows)


def parameters(cells: Cells) -> str:
    """Return EM by size and number of facts."""
    curves = parameter_curves(cells)
    facts = sorted({count for curve in curves.values() for count in curve})
    rows = []
    for (label, size), curve in curves.items():
        found = [over_seeds(curve[count]) if count in curve else "" for count in facts]
        rows.append([label, f"{size:,}", *found])
    return table(["EM", "parameters", *(f"{count:,} facts" for count in facts)], rows)


def parameter_curves(cells: Cells) -> dict[tuple[str, int], dict[int, list[dict[str, float]]]]:
    """Return, for each label and size, the estimates by number of facts."""
    curves: dict[tuple[str, int], dict[int, list[dict[str, float]]]] = {}
    everything = under(cells, "parameters/").values()
    for cell in sorted(everything, key=lambda c: (c["kind"], c["parameters"])):
        label = (
            "small pair with the index; the world was never trained on"
            if cell["kind"] == "open"
            else f"closed book, {cell['times']}x, each fact seen {cell['exposures']} times"
        )
        curve = curves.setdefault((label, cell["parameters"]), {})
        curve.setdefault(cell["facts"], []).append(cell["metrics"]["exact_match"])
    return curves


def n_context(cells: Cells) -> str:
    """Return EM and time by the number of passages read."""
    rows = []
    curves = n_context_curves(cells)
    at_test = sorted({count for curve in curves.values() for count in curve})
    for label, curve in curves.items():
        em = [over_seeds([seed["em"] for seed in curve[count]]) for count in at_test]
        seconds = [
            f"{1000 * statistics.mean(seed['seconds'] for seed in curve[count]):.1f}"
            for count in at_test
        ]
        rows.append([f"{label}: EM", *em])
        rows.append([f"{label}: ms a question", *seconds])
    return table(["passages read", *map(str, at_test)], rows)


def n_context_curves(cells: Cells) -> dict[str, dict[int, list[dict[str, Any]]]]:
    """Return EM and seconds a question by label and number of passages, one entry a seed."""
    curves: dict[str, dict[int, list[dict[str, Any]]]] = {}
    for cell in under(cells, "n_context/tiny/").values():
        label = f"made-up world, trained with {cell['trained_with']}"
        for count, found in cell["at_test"].items():
            _add(curves, label, int(count), found)
    for name, cell in under(cells, "n_context/minipedia/").items():
        _add(curves, f"Minipedia, {name.partition('/')[0]}", cell["n_context"], cell)
    order = sorted(curves, key=lambda name: (len(name), name))
    return {label: dict(sorted(curves[label].items())) for label in order}


def _add(curves: Any, label: str, count: int, found: Mapping[str, Any]) -> None:
    entry = {
        "em": found["metrics"]["exact_match"],
        "seconds": found["seconds_per_question"],
    }
    curves.setdefault(label, {}).setdefault(count, []).append(entry)


def lab_points(cells: Cells, world: str) -> dict[str, list[Point]]:
    """Return, by objective, the lab's figure and the gain in R@5 of every run."""
    points: dict[str, list[Point]] = defaultdict(list)
    for cell in under(cells, f"loss_lab/{world}/").values():
        for name, found in cell["objectives"].items():
            gain = found["gain"]["recall_at_5"]
            gain = gain["difference"]["mean"] if isinstance(gain, dict) else gain
            points[name].append((found["rank_agreement"], gain))
    return dict(points)


def loss_lab(cells: Cells, world: str) -> str:
    """Return the lab's figures and the gains, one row a teacher."""
    rows = []
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for name, cell in under(cells, f"loss_lab/{world}/").items():
        label = (
            f"reader after {cell['lessons']} steps of lessons"
            if world == "tiny"
            else f"{cell['shots']} questions, {name.split('-', 3)[-1]}"
        )
        groups[label].append(cell)
    for label, seeds in sorted(groups.items(), key=lambda item: (len(item[0]), item[0])):
        row = [f"{label} ({len(seeds)} seeds)" if len(seeds) > 1 else label]
        for name in seeds[0]["objectives"]:
            points = [_point(seed, name) for seed in seeds]
            agreement = statistics.mean(point[0] for point in points)
            gain = statistics.mean(point[1] for point in points)
            row.append(f"{agreement:+.2f} / {show_percent(gain, signed=True)}")
        rows.append(row)
    names = next(iter(groups.values()))[0]["objectives"] if groups else ()
    return table(["rank agreement / R@5 gained", *(name.upper() for name in names)], rows)


def _point(cell: Mapping[str, Any], name: str) -> Point:
    found = cell["objectives"][name]
    gain = found["gain"]["recall_at_5"]
    return found["rank_agreement"], gain["difference"]["mean"] if isinstance(gain, dict) else gain


def lab_verdict(cells: Cells, world: str) -> dict[str, float]:
    """Return the correlations that say whether the lab's advice holds.

    ``across_all``: Spearman over all runs; ``within_run``: mean Spearman over the objectives of one
    reader; ``picked_best``: share of readers whose best objective in the lab was best in training
    (ties count); ``regret``: mean R@5 lost by following it.
    """
    runs = list(under(cells, f"loss_lab/{world}/").values())
    if not runs:
        return {}
    pairs = [[_point(run, name) for name in run["objectives"]] for run in runs]
    every = [point for run in pairs for point in run]
    within = [spearman(run) for run in pairs]
    defined = [value for value in within if value is not None]
    regrets = [max(gain for _, gain in run) - max(run)[1] for run in pairs]
    return {
        "runs": len(runs),
        "across_all": spearman(every) or 0.0,
        "within_run": statistics.mean(defined) if defined else 0.0,
        "picked_best": statistics.mean(float(regret <= 0) for regret in regrets),
        "regret": statistics.mean(regrets),
    }


def spearman(points: Sequence[Point]) -> float | None:
    """Return the rank correlation of pairs; None where one side is constant."""
    ranks = [_ranks([point[side] for point in points]) for side in (0, 1)]
    if any(np.ptp(rank) == 0 for rank in ranks):
        return None
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _ranks(values: Sequence[float]) -> Any:
    array = np.asarray(values)
    smaller = (array[:, None] > array[None, :]).sum(axis=1)
    equal = (array[:, None] == array[None, :]).sum(axis=1)
    return smaller + (equal - 1) / 2
