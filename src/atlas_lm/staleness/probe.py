"""Staleness, measured: a fixed sample of passages, embedded anew whenever one wants to know."""

from __future__ import annotations

import random

from atlas_lm.staleness.drift import Drift, measure_drift
from atlas_lm.staleness.live import LiveIndex
from atlas_lm.staleness.recent import RecentQueries


class Probe:
    """A fixed sample of the passages of an index that the run's queries may find.

    Args:
        live: The index and its retriever.
        recent: The queries whose top k is compared.
        passages: Passages in the sample; all, where the index holds fewer.
        topk: Passages of the sample that count as found by a query.
        seed: Governs which.
    """

    def __init__(
        self, live: LiveIndex, recent: RecentQueries, *, passages: int, topk: int, seed: int
    ) -> None:
        self._live, self._recent, self._topk = live, recent, topk
        count = min(passages, live.n_findable)
        places = sorted(random.Random(f"probe {seed}").sample(range(live.n_findable), count))
        allowed = live.allowed_rows
        self.rows = places if allowed is None else allowed.nonzero()[places, 0].tolist()
        """The sampled rows."""
        self.embedded = 0
        """Passages embedded to measure, so far."""

    def measure(self) -> Drift:
        """Return how far the sample's vectors in the index are from the retriever's own."""
        stale, fresh = self._live.compare(self.rows)
        self.embedded += len(self.rows)
        query_emb = self._live.embed_recent(self._recent.texts())
        return measure_drift(query_emb, stale, fresh, topk=self._topk)
