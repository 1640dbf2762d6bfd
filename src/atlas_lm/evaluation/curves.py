"""Rows of a training log to the charts of a run card."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from atlas_lm.evaluation.plot import Panel, Point
from atlas_lm.evaluation.report import display_name


@dataclass(frozen=True)
class _Kind:
    """Series that share a chart: those of these names, or that begin with one ending in ``_``."""

    title: str
    unit: str
    names: tuple[str, ...]
    is_noisy: bool = True


_MAIN = (
    _Kind("Reader loss", "nats per target token", ("reader_loss",)),
    _Kind("Retriever loss", "nats per query", ("retriever_loss",)),
    _Kind("KL(gold ‖ retriever)", "nats per query", ("kl",)),
    _Kind("Entropy over the passages", "nats", ("entropy_gold", "entropy_retriever")),
    _Kind("Answers on held-out questions", "fraction", ("exact_match", "f1", "rouge_l")),
    _Kind("Recall on held-out questions", "fraction", ("recall_at_", "mrr")),
    _Kind("Recall of gold passages", "fraction", ("gold_recall_at_", "gold_mrr")),
    _Kind("Distinct passages", "share; low is collapse", ("distinct_passages",), is_noisy=False),
    _Kind(
        "Staleness of the index", "steps since refresh", ("steps_since_refresh",), is_noisy=False
    ),
    _Kind(
        "Drift of the index", "1 - cosine of stale and fresh", ("staleness_drift",), is_noisy=False
    ),
    _Kind(
        "Top k of stale and fresh vectors",
        "share in common",
        ("staleness_topk_overlap",),
        is_noisy=False,
    ),
)
_MORE = (
    _Kind("Learning rate", "", ("lr_",), is_noisy=False),
    _Kind("Gradient norm before clipping", "", ("grad_norm_",)),
)
_NEVER = frozenset({"step", "time"})
_SERIES_NAMES = {
    "reader_loss": "training",
    "retriever_loss": "training",
    "kl": "training",
    "entropy_gold": "gold",
    "entropy_retriever": "retriever",
    "lr_reader": "reader",
    "lr_retriever": "retriever",
    "grad_norm_reader": "reader",
    "grad_norm_retriever": "retriever",
    "distinct_passages": "training",
    "steps_since_refresh": "training",
    "staleness_drift": "training",
    "staleness_topk_overlap": "training",
}


def panels(history: Sequence[Mapping[str, Any]]) -> tuple[list[Panel], list[Panel]]:
    """Return the charts to show first, and those of every other series that varies."""
    series = collect_series(history)
    main, series = _shared(series, _MAIN)
    rest, series = _shared(series, _MORE)
    rest += [
        Panel(display_name(key), "", {display_name(_last(key)): points})
        for key, points in series.items()
        if len({y for _, y in points}) > 1
    ]
    return main, rest


def _shared(
    series: Mapping[str, list[Point]], kinds: Sequence[_Kind]
) -> tuple[list[Panel], dict[str, list[Point]]]:
    """Return the charts of these kinds that have a series, and the series that are left."""
    left = dict(series)
    charts = []
    for kind in kinds:
        members = [key for key in left if any(_matches(_last(key), name) for name in kind.names)]
        if members:
            labels = {_label(key, members): left.pop(key) for key in members}
            charts.append(Panel(kind.title, kind.unit, labels, kind.is_noisy))
    return charts, left


def collect_series(history: Sequence[Mapping[str, Any]]) -> dict[str, list[Point]]:
    """Return ``name -> [(step, value)]`` for every number in the rows.

    Nested objects become ``outer/inner``; an estimate ``{mean, low, high, n}`` its mean. Rows
    without a step and values that are not finite numbers are left out.
    """
    series: dict[str, list[Point]] = {}
    for row in history:
        step = row.get("step")
        if not _is_number(step):
            continue
        for key, value in flatten(row, separator="/").items():
            if key not in _NEVER and _is_number(value):
                series.setdefault(key, []).append((float(step), float(value)))
    return series


def flatten(table: Mapping[str, Any], *, separator: str, prefix: str = "") -> dict[str, Any]:
    """Return nested tables as one; an estimate stands for its mean."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping) and {"mean", "low", "high"} <= set(value):
            flat[f"{prefix}{key}"] = value["mean"]
        elif isinstance(value, Mapping):
            flat |= flatten(value, separator=separator, prefix=f"{prefix}{key}{separator}")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _label(key: str, members: Sequence[str]) -> str:
    name = _SERIES_NAMES.get(_last(key), display_name(_last(key)))
    is_shared = sum(_last(other) == _last(key) for other in members) > 1
    return f"{name} ({key.rpartition('/')[0] or 'training'})" if is_shared else name


def _last(key: str) -> str:
    return key.rpartition("/")[2]


def _matches(key: str, name: str) -> bool:
    return key.startswith(name) if name.endswith("_") else key == name


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
