"""What an update sums up over its micro-batches, and over all processes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from atlas_lm.runtime import distributed
from atlas_lm.types import Batch, Losses, Measured


@dataclass
class Tally:
    """Sums over the micro-batches of one update."""

    reader_total: float = 0.0
    """Nats."""
    retriever_total: float = 0.0
    """Nats."""
    tokens: int = 0
    """Target tokens."""
    queries: int = 0
    sums: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Sums over queries of whatever else is logged."""
    guilty: list[str] = field(default_factory=list)
    """Ids of the examples of the micro-batches whose loss was not finite."""
    retrieved: list[tuple[Sequence[str], Tensor | None]] = field(default_factory=list)
    """Example ids and the rows retrieved for them."""
    measured: list[Measured] = field(default_factory=list)
    """The signals measured, of this process."""

    def add(self, batch: Batch, losses: Losses) -> None:
        """Add what a micro-batch gave."""
        reader = losses.reader.total.item()
        retriever = 0.0 if losses.retriever_total is None else losses.retriever_total.item()
        if not math.isfinite(reader + retriever):
            self.guilty += batch.ids
        self.reader_total += reader
        self.retriever_total += retriever
        self.tokens += losses.reader.tokens
        self.queries += losses.queries
        for name, value in losses.metrics.items():
            self.sums[name] += value
        self.retrieved.append((batch.ids, losses.rows))
        if losses.measured is not None:
            self.measured.append(losses.measured)

    def of_all_processes(self) -> Tally:
        """Return the sums over all processes, without what was measured. Collective."""
        if distributed.world().size == 1:
            return self
        own = [self.reader_total, self.retriever_total, self.tokens, self.queries]
        retrieved = [
            [ids, None if rows is None else rows.tolist()] for ids, rows in self.retrieved if ids
        ]
        both = Tally()
        for totals, sums, guilty, found in distributed.gather_json(
            [own, self.sums, self.guilty, retrieved]
        ):
            reader, retriever, tokens, queries = totals
            both.reader_total += reader
            both.retriever_total += retriever
            both.tokens += tokens
            both.queries += queries
            both.guilty += guilty
            both.retrieved += [
                (ids, None if rows is None else torch.tensor(rows)) for ids, rows in found
            ]
            for name, value in sums.items():
                both.sums[name] += value
        return both
