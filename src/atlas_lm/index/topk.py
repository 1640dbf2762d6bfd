"""The best rows of a corpus that is scored a chunk at a time.

Scores of a chunk come as [rows bsz] or [bsz rows], as the product that made them is faster; either
way the maximum over a block of rows runs along contiguous memory. Once ``topk`` rows are known,
only blocks whose maximum beats a query's worst kept score are looked into; soon hardly any does.
Candidates are gathered and merged in large lots, for sorting a few at a time costs more than
carrying them.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

BLOCK = 32
"""Rows under one maximum. Chunks hold a multiple of it; the last one is padded with -inf."""


class RunningTopk:
    """The ``topk`` best rows of each query: higher score first, then lower row.

    Chunks come in ascending row order, so a later row with an equal score never displaces an
    earlier one. A score of -inf marks a row that may not be returned.
    """

    def __init__(self, bsz: int, topk: int, device: torch.device) -> None:
        self._scores = torch.full((bsz, topk), -torch.inf, device=device)
        self._rows = torch.zeros((bsz, topk), dtype=torch.int64, device=device)
        self._pending: list[tuple[Tensor, Tensor, Tensor]] = []
        self._n_pending = 0
        self._started = False

    def add(self, scores: Float[Tensor, "rows bsz"], first_row: int) -> None:
        """Take a chunk's scores [rows bsz] into account; its first row is ``first_row``.

        The first chunk holds at least ``topk`` rows; ``rows`` is a multiple of `BLOCK`.
        """
        if self._started:
            self._take(*_above(scores, self._scores[:, -1]), first_row)
        else:
            self._take(*_best(scores.T.contiguous(), self._scores.shape[1]), first_row)

    def add_by_query(self, scores: Float[Tensor, "bsz rows"], first_row: int) -> None:
        """Take a chunk's scores [bsz rows] into account, otherwise as `add`."""
        if self._started:
            self._take(*_above_by_query(scores, self._scores[:, -1]), first_row)
        else:
            self._take(*_best(scores, self._scores.shape[1]), first_row)

    def _take(
        self,
        query: Int64[Tensor, " n"],
        row: Int64[Tensor, " n"],
        value: Float[Tensor, " n"],
        first_row: int,
    ) -> None:
        bsz, topk = self._scores.shape
        self._pending.append((query, row + first_row, value))
        self._n_pending += len(query)
        if not self._started or self._n_pending > bsz * topk // 2:
            self._merge()
        self._started = True

    def result(self) -> tuple[Float[Tensor, "bsz topk"], Int64[Tensor, "bsz topk"]]:
        """Return scores and rows, best first."""
        self._merge()
        return self._scores, self._rows

    def _merge(self) -> None:
        """Sort the pending candidates in; within a query they stand in ascending row order."""
        if not self._n_pending:
            return
        query, row, value = (torch.cat(parts) for parts in zip(*self._pending, strict=True))
        self._pending, self._n_pending = [], 0
        bsz, topk = self._scores.shape
        by_query = torch.argsort(query, stable=True)
        query = query[by_query]
        counts = torch.bincount(query, minlength=bsz)
        first = counts.cumsum(0) - counts
        column = topk + torch.arange(len(query), device=query.device) - first[query]
        width = topk + int(counts.max())
        scores = self._scores.new_full((bsz, width), -torch.inf)
        rows = self._rows.new_zeros((bsz, width))
        scores[:, :topk], rows[:, :topk] = self._scores, self._rows
        scores[query, column], rows[query, column] = value[by_query], row[by_query]
        scores, best = torch.sort(scores, dim=1, descending=True, stable=True)
        self._scores = scores[:, :topk].contiguous()
        self._rows = rows.gather(1, best[:, :topk])


def _above(
    scores: Float[Tensor, "rows bsz"], floor: Float[Tensor, " bsz"]
) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"], Float[Tensor, " n"]]:
    """Return query, row and score of all scores above their query's floor."""
    blocks = scores.view(-1, BLOCK, scores.shape[1])
    block, query = (blocks.amax(dim=1) > floor).nonzero(as_tuple=True)
    values = blocks[block, :, query]
    place, offset = (values > floor[query, None]).nonzero(as_tuple=True)
    return query[place], block[place] * BLOCK + offset, values[place, offset]


def _above_by_query(
    scores: Float[Tensor, "bsz rows"], floor: Float[Tensor, " bsz"]
) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"], Float[Tensor, " n"]]:
    """Return the same of scores [bsz rows]."""
    blocks = scores.view(len(scores), BLOCK, -1)
    return _in_blocks(blocks, blocks.amax(dim=1) > floor[:, None], floor)


def _best(
    by_query: Float[Tensor, "bsz rows"], topk: int
) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"], Float[Tensor, " n"]]:
    """Return query, row and score of each query's ``topk`` best scores and all that equal them.

    Some more may be among them: the ``topk``-th best maximum of a block is at most the
    ``topk``-th best score, and found sooner.
    """
    blocks = by_query.view(len(by_query), BLOCK, by_query.shape[1] // BLOCK)
    maxima = blocks.amax(dim=1)
    enough = topk <= maxima.shape[1]
    floor = (maxima if enough else by_query).topk(topk, dim=1).values[:, -1]
    below = torch.nextafter(floor, torch.full_like(floor, -torch.inf))
    return _in_blocks(blocks, maxima >= floor[:, None], below)


def _in_blocks(
    blocks: Float[Tensor, "bsz block n_blocks"],
    some: Bool[Tensor, "bsz n_blocks"],
    floor: Float[Tensor, " bsz"],
) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"], Float[Tensor, " n"]]:
    """Return query, row and score above the floor in some blocks; row r is in block r % n_blocks.

    A floor of -inf leaves rows of -inf in.
    """
    query, block = some.nonzero(as_tuple=True)
    values = blocks[query, :, block]
    floors = floor[query, None]
    place, offset = ((values > floors) | (floors == -torch.inf)).nonzero(as_tuple=True)
    row = offset * blocks.shape[2] + block[place]
    by_row = torch.argsort(row)
    return query[place][by_row], row[by_row], values[place, offset][by_row]
