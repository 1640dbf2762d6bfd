"""How an index is refreshed once that is due: all of it at once, or the busy part first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from atlas_lm.runtime.distributed import never
from atlas_lm.runtime.errors import InputError
from atlas_lm.staleness.live import LiveIndex
from atlas_lm.staleness.recent import RecentQueries

Tensors = Mapping[str, Mapping[str, Tensor]]
"""Tensors of several files, by file and name."""


class Refresher(Protocol):
    """A way to refresh an index."""

    def begin(self, step: int, stopping: Callable[[], bool] = never) -> None:
        """Refresh, or begin to: a refresh is due before the update at ``step``.

        Raises:
            StopAsked: ``stopping`` was true on the way; nothing has changed.
        """
        ...

    def proceed(self, step: int) -> None:
        """Go on with what was begun earlier; called before every update."""
        ...

    def facts(self) -> dict[str, Any]:
        """Return what is under way, ready for JSON."""
        ...

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Return the tensors of what is under way, by file."""
        ...

    def restore(self, facts: Mapping[str, Any], tensors: Tensors) -> None:
        """Take up what was under way."""
        ...

    def close(self) -> None:
        """Stop what is under way."""
        ...


class _AtOnce:
    """A refresher that leaves nothing under way."""

    def proceed(self, step: int) -> None:
        """Nothing is left to do."""

    def facts(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Return nothing."""
        return {}

    def restore(self, facts: Mapping[str, Any], tensors: Tensors) -> None:
        """Nothing was under way that this refresher could take up."""

    def close(self) -> None:
        """Nothing runs."""


class FullRefresh(_AtOnce):
    """Every passage, while training waits."""

    def __init__(self, live: LiveIndex) -> None:
        self._live = live

    def begin(self, step: int, stopping: Callable[[], bool] = never) -> None:
        """Replace every vector by the retriever's own."""
        self._live.renew(range(len(self._live)), step, stopping)


@dataclass(frozen=True, kw_only=True)
class PartialConfig:
    """Which passages a partial refresh embeds."""

    budget: int = 0
    """Passages embedded at most, each time a refresh is due; must be given."""
    sweep_share: float = 0.25
    """Share of the budget for the passages that nobody asks for, those with the oldest vectors."""
    depth: int = 4
    """A passage is near the boundary of a query's top k if it is among its first depth x k."""

    def __post_init__(self) -> None:
        if self.budget < 0:
            raise InputError(f"staleness.partial.budget={self.budget}: give a number of passages")
        if not 0 <= self.sweep_share <= 1:
            raise InputError(
                f"staleness.partial.sweep_share={self.sweep_share}: give a share in [0, 1]"
            )
        if self.depth < 1:
            raise InputError(f"staleness.partial.depth={self.depth}: give a number of at least 1")


class PartialRefresh(_AtOnce):
    """The passages that the last queries find, or nearly find; then some of the oldest.

    Passages that a filter keeps the run's queries from finding are left as they are. The cost of a
    refresh follows the working set: it is at most the budget, and less where the last queries find
    few different passages.

    Args:
        live: The index and its retriever.
        recent: The queries asked last.
        config: How many passages.
        topk: Passages retrieved for a query.
    """

    def __init__(
        self, live: LiveIndex, recent: RecentQueries, config: PartialConfig, *, topk: int
    ) -> None:
        self._live, self._recent, self._config = live, recent, config
        self._depth = min(config.depth * topk, live.n_findable)

    def begin(self, step: int, stopping: Callable[[], bool] = never) -> None:
        """Replace the vectors of the rows that are `due`."""
        self._live.renew(self.due(step), step, stopping)

    def due(self, step: int) -> list[int]:
        """Return the rows to embed anew at ``step``, ascending.

        Rows in demand come first: oldest vector first, among equals those of best rank for any
        query. The share of the sweep goes to the oldest vectors that queries may find.
        """
        steps = self._live.row_steps
        for_sweep = round(self._config.budget * self._config.sweep_share)
        wanted = torch.tensor(self.in_demand(), dtype=torch.int64)
        wanted = wanted[steps[wanted] < step]
        wanted = wanted[steps[wanted].argsort(stable=True)][: self._config.budget - for_sweep]
        rest = steps.clone()
        rest[wanted] = step
        if self._live.allowed_rows is not None:
            rest[~self._live.allowed_rows] = step
        oldest = rest.argsort(stable=True)[:for_sweep]
        return sorted({*wanted.tolist(), *oldest[rest[oldest] < step].tolist()})

    def in_demand(self) -> list[int]:
        """Return the rows that the last queries find, or nearly find; best ranks first."""
        queries = self._recent.texts()[::-1]
        if not queries:
            return []
        found = self._live.find(queries, self._depth)
        return list(dict.fromkeys(found.T.flatten().tolist()))
