"""The tables of Minipedia: retrieval, answers, towers and alternations."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from tables import Cells, difference, interval, over_seeds, table, under
from tuning import OBJECTIVES

KS = (1, 5, 20)
BASELINES = {
    "bm25": "BM25",
    "minilm": "MiniLM (supervised, has seen NQ and TriviaQA)",
    "nano": "contriever-nano, untrained start",
}
TEACHERS = {
    "trained": "trained reader",
    "control": "control: reader as published",
    "control-prompted": "control: reader as published, few-shot prompt",
    "shuffled": "control: the trained reader's signals, shuffled",
    "oracle": "ceiling: answer strings",
}
CONTROLS = ("control", "control-prompted", "shuffled")
_DRAW = re.compile(r"s(?P<shots>\d+)-(?P<seed>\d+)-(?P<start>\w+)$")


def retrieval(cells: Cells, on: str) -> str:
    """Return recall of the baselines and of every retriever that has learnt."""
    rows = []
    base = under(cells, f"retrieval/{on}/")
    for name, label in BASELINES.items():
        if name in base:
            metrics = base[name]["metrics"]
            rows.append([label, *(interval(metrics[f"recall_at_{k}"]) for k in KS), ""])
    for (shots, start, teacher, objective), seeds in _learnt(cells, on).items():
        if start not in base:
            continue
        gains = [difference(base[start], cell, "recall_at_5") for cell in seeds.values()]
        label = f"{start}, {shots} questions, {objective.upper()}, {TEACHERS[teacher]}"
        if len(seeds) > 1:
            label += f" ({len(seeds)} seeds)"
        recalls = [
            over_seeds([cell["metrics"][f"recall_at_{k}"] for cell in seeds.values()]) for k in KS
        ]
        rows.append([label, *recalls, over_seeds(gains, signed=True)])
    return table(["", *(f"R@{k}" for k in KS), "R@5 gained, paired"], rows)


def against_controls(cells: Cells, on: str) -> str:
    """Return what a trained teacher gives beyond the same training by an untrained one."""
    learnt = _learnt(cells, on)
    rows = []
    for (shots, start, teacher, objective), seeds in learnt.items():
        trained = learnt.get((shots, start, "trained", objective), {})
        both = sorted(trained.keys() & seeds.keys())
        if teacher not in CONTROLS or not both:
            continue
        gains = [
            over_seeds(
                [difference(seeds[s], trained[s], f"recall_at_{k}") for s in both], signed=True
            )
            for k in KS
        ]
        label = f"{start}, {shots} questions, {objective.upper()}, against the {TEACHERS[teacher]}"
        rows.append([label, *gains])
    return table(["trained reader as teacher", *(f"R@{k}, paired" for k in KS)], rows)


def gains(cells: Cells, on: str) -> list[tuple[str, float, float, float]]:
    """Return label, mean, low and high of R@5 gained by every retriever that has learnt, x100.

    Of several seeds: the mean, and the lowest and highest seed.
    """
    base = under(cells, f"retrieval/{on}/")
    points = []
    for (shots, start, teacher, objective), seeds in _learnt(cells, on).items():
        if start not in base:
            continue
        found = [difference(base[start], cell, "recall_at_5") for cell in seeds.values()]
        means = [each["mean"] for each in found]
        low = min(means) if len(found) > 1 else found[0]["low"]
        high = max(means) if len(found) > 1 else found[0]["high"]
        label = f"{start}, {shots} questions, {objective.upper()}, {TEACHERS[teacher]}"
        mean = sum(means) / len(means)
        points.append((label, 100 * mean, 100 * low, 100 * high))
    return points


def sizes(cells: Cells, asked: str) -> str:
    """Return readers of several sizes, closed book and with passages."""
    found = under(cells, f"sizes/{asked}/").values()
    ordered = sorted(found, key=lambda cell: (cell["parameters"], cell["reader"]))
    rows = []
    for cell in ordered:
        passages = "closed book" if cell["ranking"] == "closed" else cell["ranking"]
        label = f"{cell['reader']}, {passages}"
        rows.append([label, f"{cell['parameters']:,}", *_em_f1(cell)])
    return table(["", "parameters", "EM", "F1"], rows)


def _learnt(cells: Cells, on: str) -> dict[tuple[int, str, str, str], dict[int, Any]]:
    """Return learnt retrievers by shots, start, teacher and objective, then by seed."""
    found: dict[tuple[int, str, str, str], dict[int, Any]] = defaultdict(dict)
    for name, cell in under(cells, f"learn/{on}/").items():
        draw, _, rest = name.partition("/")
        match = _DRAW.match(draw)
        teacher, _, objective = rest.rpartition("-")
        if match:
            key = (int(match["shots"]), match["start"], teacher, objective)
            found[key][int(match["seed"])] = cell
    order = {teacher: n for n, teacher in enumerate(TEACHERS)}
    by = {objective: n for n, objective in enumerate(OBJECTIVES)}
    return dict(
        sorted(found.items(), key=lambda i: (i[0][0], i[0][1], order[i[0][2]], by[i[0][3]]))
    )


def answers(cells: Cells, asked: str) -> str:
    """Return EM and F1 of the published and of each trained reader."""
    rows = []
    prompts = under(cells, f"prompt/{asked}/")
    for name, cell in prompts.items():
        rows.append([f"few-shot prompt, {_passages(name)}", *_em_f1(cell), ""])
    draws = sorted({name.partition("/")[0] for name in under(cells, f"read/{asked}/")})
    for draw in draws:
        reads = under(cells, f"read/{asked}/{draw}/")
        for name, cell in reads.items():
            before = prompts.get(name)
            gain = _gain(before, cell, "over the prompt") if before else ""
            rows.append([f"trained reader ({draw}), {_passages(name)}", *_em_f1(cell), gain])
        frozen = reads.get(f"{draw.rpartition('-')[2]}-fused")
        for name, cell in under(cells, f"joint/{asked}/{draw}/").items():
            gain = _gain(frozen, cell, "by the retriever alone") if frozen else ""
            rows.append([f"joint ({draw}), {name.upper()}", *_em_f1(cell), gain])
    return table(["", "EM", "F1", "EM gained, paired"], rows)


def _passages(name: str) -> str:
    if name == "closed":
        return "closed book"
    parts = name.split("-", 1)
    reading = {
        "fused": "fused",
        "one_prompt": "one prompt",
        "one_prompt-trained-fused": "one prompt (trained fused)",
        "one_prompt-trained-one_prompt": "one prompt (trained so)",
    }[parts[1]]
    return f"{parts[0]}, {reading}"


def _em_f1(cell: Mapping[str, Any]) -> list[str]:
    return [interval(cell["metrics"][name]) for name in ("exact_match", "f1")]


def _gain(before: Mapping[str, Any], after: Mapping[str, Any], what: str) -> str:
    return f"{interval(difference(before, after, 'exact_match'), signed=True)} {what}"


def towers(cells: Cells, on: str) -> str:
    """Return recall where both encoders learn: stale, reranked, refreshed."""
    rows = []
    for name, cell in under(cells, f"towers/{on}/").items():
        for state in ("stale", "stale, 100 reranked", "refreshed"):
            metrics = cell[state]["metrics"]
            label = f"{name.replace('/', ', ')}, {state}"
            rows.append([label, *(interval(metrics[f"recall_at_{k}"]) for k in KS)])
    return table(["both encoders", *(f"R@{k}" for k in KS)], rows)


def variants(cells: Cells, asked: str) -> str:
    """Return what several alternations give."""
    rows = []
    for name, cell in under(cells, f"variant/{asked}/").items():
        recall = cell["recall"]["metrics"]
        row = [name.replace("/", ", "), *(interval(recall[f"recall_at_{k}"]) for k in KS)]
        rows.append([*row, interval(cell["metrics"]["exact_match"])])
    return table(["whole runs", *(f"R@{k}" for k in KS), "EM"], rows)


def chosen(cells: Cells) -> str:
    """Return the hyper-parameters that were chosen on dev questions."""
    rows = []
    for name, cell in under(cells, "tune/").items():
        best = cell["chosen"]
        scores = [tried["score"] for tried in cell["tried"]]
        rows.append(
            [
                name.replace("/", ", "),
                *(str(best[key]) for key in best),
                f"{100 * scores[0]:.1f} to {100 * max(scores):.1f}",
                str(len(scores)),
            ]
        )
    header = ["draw, objective", "T_gold / spread", "T_score", "passes", "lr factor", "floor"]
    return table([*header, "mean R@1/5/20, default to chosen", "tried"], rows)


def sets(cells: Cells, *groups: str) -> list[str]:
    """Return what is measured in these groups: the second part of their cells' names."""
    names = [name.split("/") for name in cells]
    return sorted({parts[1] for parts in names if parts[0] in groups})
