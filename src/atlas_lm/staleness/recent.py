"""The queries that training asked last."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

WINDOW = 256
"""Queries looked back on."""


class RecentQueries:
    """The last different queries, newest last."""

    def __init__(self, window: int = WINDOW) -> None:
        self.window = window
        self._queries: OrderedDict[str, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._queries)

    def add(self, queries: Iterable[str]) -> None:
        """Note queries as the newest; the oldest beyond the window are forgotten."""
        for query in queries:
            self._queries[query] = None
            self._queries.move_to_end(query)
        while len(self._queries) > self.window:
            self._queries.popitem(last=False)

    def texts(self) -> list[str]:
        """Return the queries, oldest first."""
        return list(self._queries)

    def restore(self, queries: Iterable[str]) -> None:
        """Forget all and take these, oldest first."""
        self._queries.clear()
        self.add(queries)
