"""The loop of every first pass: chunks of rows are scored on all threads, the best are kept."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import pad

from atlas_lm.index.threads import on_threads
from atlas_lm.index.topk import BLOCK, RunningTopk

CHUNK_ROWS = 16_384
"""Rows scored at once; a multiple of `topk.BLOCK`."""
SCORES_AT_ONCE = 1 << 20
"""Scores of which the best are kept at once, 4 MB, which stay in cache."""

Found = tuple[Float[Tensor, "bsz n_found"], Int64[Tensor, "bsz n_found"]]
Scorer = Callable[[int], tuple[Tensor, bool]]
"""Chunk number to its scores, which may be written to, and whether they are [bsz rows] (True) or
[rows bsz]. Made once for a thread."""


class FirstPass(Protocol):
    """Finds each query's best rows from something smaller than the vectors."""

    largest_step: float
    """The greatest step codes are rounded to; 0 where rounding is not what makes them differ."""

    def best(
        self,
        query: Float[Tensor, "bsz dim"],
        n_found: int,
        excluded: Int64[Tensor, "pairs 2"],
        hidden: Bool[Tensor, " n"] | None,
    ) -> Found:
        """Return each query's ``n_found`` best rows, best first.

        Where fewer may be returned, scores are -inf at the end.

        Args:
            query: the queries, on CPU.
            n_found: at most `CHUNK_ROWS`.
            excluded: (row, query) pairs that may not be found, sorted by row.
            hidden: True for rows that no query may find.
        """
        ...

    def way(self, bsz: int) -> str:
        """Return in words how a batch of ``bsz`` queries is scored."""
        ...


def best_of_chunks(
    scorer: Callable[[], Scorer],
    count: int,
    bsz: int,
    n_found: int,
    excluded: Int64[Tensor, "pairs 2"],
    hidden: Bool[Tensor, " n"] | None,
) -> Found:
    """Return the best rows of all chunks; see `FirstPass.best`.

    Args:
        scorer: makes a thread's own scorer of chunks.
        count: rows in all.
        bsz: queries.
        n_found: rows kept for each.
        excluded: (row, query) pairs that may not be found, sorted by row.
        hidden: True for rows that no query may find.
    """
    n_chunks = -(-count // CHUNK_ROWS)
    excluded_rows = excluded[:, 0].contiguous()
    group = _chunks_at_once(bsz, n_chunks)
    n_groups = -(-n_chunks // group)
    groups = iter(range(n_groups))
    taking = threading.Lock()

    def take() -> int | None:
        with taking:
            return next(groups, None)

    def scan_some() -> Found:
        score, found = scorer(), RunningTopk(bsz, n_found, torch.device("cpu"))
        for first in iter(take, None):
            chunks = range(first * group, min((first + 1) * group, n_chunks))
            start, stop = chunks.start * CHUNK_ROWS, min(chunks.stop * CHUNK_ROWS, count)
            scores, by_query = _joined([score(chunk) for chunk in chunks])
            _hide(scores if by_query else scores.T, start, stop, excluded, excluded_rows, hidden)
            rows = max(stop - start, n_found)
            missing = rows + -rows % BLOCK - (stop - start)
            if by_query:
                found.add_by_query(pad(scores, (0, missing), value=-torch.inf), start)
            else:
                found.add(pad(scores, (0, 0, 0, missing), value=-torch.inf), start)
        return found.result()

    threads = min(torch.get_num_threads(), n_groups)
    parts = on_threads(scan_some, threads) if threads > 1 else [scan_some()]
    scores, rows = (torch.cat(part, dim=1) for part in zip(*parts, strict=True))
    scores, best = scores.topk(n_found, dim=1)
    return scores, rows.gather(1, best)


def _chunks_at_once(bsz: int, n_chunks: int) -> int:
    """Return how many chunks to keep the best of at once: a step that costs the same for many."""
    share = -(-n_chunks // torch.get_num_threads())
    return max(min(SCORES_AT_ONCE // (max(bsz, 1) * CHUNK_ROWS), share), 1)


def _joined(parts: list[tuple[Tensor, bool]]) -> tuple[Tensor, bool]:
    """Return the scores of neighbouring chunks as one, [bsz rows] unless all are [rows bsz]."""
    if not any(by_query for _, by_query in parts) and parts[0][0].shape[1] > 1:
        return torch.cat([scores for scores, _ in parts]) if len(parts) > 1 else parts[0][0], False
    rows = [scores if by_query else scores.T for scores, by_query in parts]
    return torch.cat(rows, dim=1) if len(rows) > 1 else rows[0].contiguous(), True


def _hide(
    scores: Float[Tensor, "bsz rows"],
    start: int,
    stop: int,
    excluded: Int64[Tensor, "pairs 2"],
    excluded_rows: Int64[Tensor, " pairs"],
    hidden: Bool[Tensor, " n"] | None,
) -> None:
    """Set the scores of rows that may not be found to -inf, in a chunk [start, stop)."""
    if hidden is not None:
        scores.masked_fill_(hidden[None, start:stop], -torch.inf)
    if len(excluded):
        limits = torch.tensor([start, stop])
        low, high = torch.searchsorted(excluded_rows, limits).tolist()
        rows, queries = excluded[low:high].T
        scores[queries, rows - start] = -torch.inf
