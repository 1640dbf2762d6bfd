"""Has the retriever collapsed? Watches how many different passages it still finds."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from jaxtyping import Int64
from torch import Tensor

from atlas_lm.runtime.logs import warn

WINDOW = 256
"""Different queries that are looked back on."""
ENOUGH = 32
"""Queries before a share means anything."""
ALARM = 0.1
"""Share of distinct passages below which the user is warned."""


class CollapseMonitor:
    """Share of distinct passages, of as many as the last queries could have found.

    That is as many as they have slots, each query counted once, or as can be found at all. A
    healthy retriever finds different passages for different queries; a collapsed one finds the
    same few for all, and its loss may look fine.

    Args:
        findable: Passages that a search may return; 0 where that is not known.
        window: Different queries that are looked back on.
    """

    def __init__(self, findable: int = 0, *, window: int = WINDOW) -> None:
        self.findable = findable
        self.window = window
        self._rows: OrderedDict[str, frozenset[int]] = OrderedDict()
        self._slots: dict[str, int] = {}
        self._alarmed = False

    def add(self, ids: Sequence[str], rows: Int64[Tensor, "bsz n_context"] | None) -> None:
        """Note what was retrieved for these queries; given passages (row -1) do not count."""
        if rows is None or rows.numel() == 0 or bool((rows < 0).any()):
            return
        for query, found in zip(ids, rows.tolist(), strict=True):
            self._rows.pop(query, None)
            self._rows[query] = frozenset(found)
            self._slots[query] = len(found)
        while len(self._rows) > self.window:
            forgotten, _ = self._rows.popitem(last=False)
            del self._slots[forgotten]

    @property
    def share(self) -> float | None:
        """Distinct passages, of as many as could be, in (0, 1]; None before the first query."""
        if not self._rows:
            return None
        slots = sum(self._slots.values())
        could_be = min(slots, self.findable or slots)
        return len(frozenset().union(*self._rows.values())) / could_be

    def check(self, step: int) -> None:
        """Warn, once for each fall, where few passages are found for many queries."""
        share = self.share
        if share is None or len(self._rows) < ENOUGH:
            return
        if share < ALARM and not self._alarmed:
            warn(
                f"step {step}: the last {len(self._rows)} queries found only {share:.1%} of the "
                "distinct passages that they could have: the retriever may be collapsing. Lower "
                "training.retriever.lr, raise objective.temperature_gold, or let the reader learn "
                "first with training.freeze_retriever_steps."
            )
        self._alarmed = share < ALARM
