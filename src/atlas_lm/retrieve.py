"""Queries to passages: embed, search, exclude, rerank.

No gradient flows here and the encoders are in eval mode. The index may be older than the
retriever; `n_rerank` re-embeds the candidates with the fresh encoder before the best are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from atlas_lm.index import Index
from atlas_lm.index.sharded import ShardedIndex
from atlas_lm.passages.filters import Filter, rows_that_pass
from atlas_lm.passages.overlap import Repeats
from atlas_lm.passages.store import PassageStore
from atlas_lm.retriever import BiEncoder
from atlas_lm.runtime import distributed
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.modes import evaluating
from atlas_lm.staleness import rerank
from atlas_lm.types import Batch, Retrieved

PassagesFrom = Literal["index", "file", "none"]


@dataclass(frozen=True, kw_only=True)
class ContextConfig:
    """Where passages come from and how many are read."""

    passages_from: PassagesFrom = "index"
    """Retrieval ("index"), the data file ("file"), or nowhere ("none": closed book)."""
    n_context: int = 5
    """Passages the reader reads per query."""
    retriever_n_context: int = 5
    """Passages used to train the retriever; at least n_context."""
    n_rerank: int = 0
    """Candidates re-embedded with the fresh encoder before the best are kept; 0 for none."""
    where: str = ""
    """Only passages that satisfy it are retrieved, such as 'source == "hr" and year >= 2020'."""
    as_of: str = ""
    """Only passages valid on this date are retrieved: 2019, 2019-06 or 2019-06-15."""

    def __post_init__(self) -> None:
        if self.n_context < 1:
            raise InputError(f"context.n_context={self.n_context}: read at least one passage")
        if self.retriever_n_context < self.n_context:
            raise InputError(
                f"context.retriever_n_context={self.retriever_n_context} is smaller than "
                f"context.n_context={self.n_context}; the retriever must score every passage read"
            )
        if 0 < self.n_rerank < self.retriever_n_context:
            raise InputError(
                f"context.n_rerank={self.n_rerank} is smaller than "
                f"context.retriever_n_context={self.retriever_n_context}; rerank more than is kept"
            )
        if self.filter and self.passages_from != "index":
            raise InputError(
                f"context.where and context.as_of have no effect with "
                f"context.passages_from={self.passages_from}; leave them out"
            )

    @property
    def filter(self) -> Filter:
        """Which passages may be retrieved."""
        return Filter(where=self.where, as_of=self.as_of)


def retrieve(
    batch: Batch,
    *,
    retriever: BiEncoder,
    index: Index,
    store: PassageStore,
    topk: int,
    n_rerank: int = 0,
    allowed_rows: Bool[Tensor, " n"] | None = None,
    spare: int = 0,
) -> Retrieved:
    """Return the ``topk`` best passages of every query, best first, never an excluded one.

    Nor one that repeats a query's `Overlap`, as long as ``spare`` others are enough to replace
    them; where they are not, the best of those left out fill the gap. Passages are compared in
    the precision of the index and of the vectors, under any autocast.

    Args:
        batch: the queries, each with the passages it may not see.
        retriever: embeds the queries.
        index: what is searched.
        store: the passages of its rows.
        topk: passages per query.
        n_rerank: candidates of a query that are re-embedded before the best are kept, all where it
            has fewer, whatever the others have; 0 for none. Where more are asked for the others
            follow in the index's order.
        allowed_rows: True for the rows that may be found; all where None.
        spare: passages found beyond ``topk``, to replace those that repeat.

    Raises:
        InputError: fewer than ``topk`` passages are left after exclusion.
    """
    with torch.no_grad(), evaluating(retriever):
        query_emb = retriever.embed_queries(batch.retriever_query)
        excluded = excluded_rows(batch, store, allowed_rows)
        findable = n_findable(store, allowed_rows)
        n_rerank = n_rerank and min(n_rerank, _fewest(index, findable))
        depth = max(topk + spare, n_rerank)
        told = excluded and [
            rows if findable - len(rows) < topk + spare else rows[: findable - depth]
            for rows in excluded
        ]
        with torch.autocast(query_emb.device.type, enabled=False):
            found = index.search(query_emb, depth, told, allowed_rows=allowed_rows)
            rows, scores = found.rows.cpu(), found.scores.cpu()
            if n_rerank:
                best, fresh = rerank(retriever, query_emb, store, rows[:, :n_rerank])
                rows = torch.cat([best, rows[:, n_rerank:]], dim=1)
                scores = torch.cat([fresh.to(scores), scores[:, n_rerank:]], dim=1)
            if excluded and told != excluded:
                rows, scores = _excluded_last(rows, scores, excluded)
    if not any(example.overlap for example in batch.examples):
        return with_text(store, rows[:, :topk], scores[:, :topk])
    return without_overlap(batch, with_text(store, rows, scores), topk)


def without_overlap(batch: Batch, found: Retrieved, topk: int) -> Retrieved:
    """Return the ``topk`` best passages that do not repeat their query's `Overlap`.

    Where too few are left the best of the others fill the gap, behind them. Those with a score of
    -inf are excluded; they stand last, behind ``topk`` others at least.
    """
    orders, leaked, repeating = [], [], []
    hidden = (found.scores == -torch.inf).tolist()
    for example, passages, gone in zip(batch.examples, found.passages, hidden, strict=True):
        repeats = Repeats(example.overlap) if example.overlap else None
        kept = [
            n
            for n, passage in enumerate(passages)
            if not (gone[n] or (repeats and repeats(passage)))
        ]
        leaked.append(kept[:topk] != list(range(min(topk, len(passages)))))
        others = [n for n in range(len(passages)) if n not in set(kept)]
        repeating.append(frozenset(passages[n].id for n in others))
        orders.append([*kept, *others][:topk])
    order = torch.tensor(orders)
    return Retrieved(
        tuple(
            tuple(passages[n] for n in chosen)
            for passages, chosen in zip(found.passages, orders, strict=True)
        ),
        found.scores.gather(1, order),
        found.rows.gather(1, order),
        tuple(leaked),
        tuple(repeating),
    )


def filtered_rows(store: PassageStore, wanted: Filter) -> Bool[Tensor, " n"] | None:
    """Return True for the rows that satisfy the filter; None where there is none.

    Raises:
        InputError: see `passages.filters.rows_that_pass`.
    """
    return torch.from_numpy(rows_that_pass(store, wanted)) if wanted else None


def given_passages(batch: Batch, n_context: int) -> Retrieved:
    """Return the first ``n_context`` passages that the data file gives for each query.

    Scores are zero and rows -1: nothing was searched.

    Raises:
        InputError: an example gives no passages or fewer than ``n_context``.
    """
    for example in batch.examples:
        given = len(example.passages or ())
        if given < n_context:
            raise InputError(
                f"example {example.id!r}: gives {given} passages, {n_context} are wanted; add "
                "passages to it, or set context.n_context and, where the retriever learns, "
                f"context.retriever_n_context to {given} or less"
                if given
                else f"example {example.id!r}: no passages given; add a 'passages' list to it "
                "or retrieve them with context.passages_from=index"
            )
    shape = (len(batch), n_context)
    passages = tuple((example.passages or ())[:n_context] for example in batch.examples)
    return Retrieved(passages, torch.zeros(shape), torch.full(shape, -1, dtype=torch.int64))


def no_passages(batch: Batch) -> Retrieved:
    """Return an empty retrieval for every query: closed book."""
    shape = (len(batch), 0)
    return Retrieved(
        tuple(() for _ in batch.examples), torch.zeros(shape), torch.zeros(shape, dtype=torch.int64)
    )


def excluded_rows(
    batch: Batch, store: PassageStore, allowed_rows: Bool[Tensor, " n"] | None = None
) -> list[list[int]] | None:
    """Return, for each query, which allowed rows it may not see; None where none excludes any."""
    if not any(example.excluded_passage_ids for example in batch.examples):
        return None
    rows_of = [
        store.rows_of(sorted(example.excluded_passage_ids), missing="skip")
        for example in batch.examples
    ]
    if allowed_rows is None:
        return rows_of
    return [list(compress(rows, allowed_rows[rows].tolist())) for rows in rows_of]


def withheld(batch: Batch, found: Retrieved) -> tuple[frozenset[str], ...]:
    """Return the ids of the passages that each query may not see: excluded, or repeating it."""
    repeating = found.repeating or (frozenset(),) * len(batch)
    return tuple(
        example.excluded_passage_ids | ids
        for example, ids in zip(batch.examples, repeating, strict=True)
    )


def n_findable(store: PassageStore, allowed_rows: Bool[Tensor, " n"] | None) -> int:
    """Return how many passages are neither dead nor filtered out."""
    hidden = store.hidden
    if allowed_rows is None:
        return len(store) - (0 if hidden is None else len(hidden))
    return int(allowed_rows.sum()) - (0 if hidden is None else int(allowed_rows[hidden].sum()))


def _fewest(index: Index, findable: int) -> int:
    """Return the fewest passages that a process finds, of those that share the index.

    Collective where they do.
    """
    if isinstance(index, ShardedIndex):
        return int(distributed.gather_numbers([findable]).min())
    return findable


def _excluded_last(
    rows: Int64[Tensor, "bsz n"], scores: Float[Tensor, "bsz n"], excluded: Sequence[Sequence[int]]
) -> tuple[Int64[Tensor, "bsz n"], Float[Tensor, "bsz n"]]:
    """Return rows and scores with each query's excluded ones last, scored -inf.

    A search gives all queries of a batch equally many rows, more than some of them may see.
    """
    hidden = torch.stack(
        [torch.isin(found, torch.tensor(own)) for found, own in zip(rows, excluded, strict=True)]
    )
    order = hidden.long().argsort(dim=1, stable=True)
    return rows.gather(1, order), scores.masked_fill(hidden, -torch.inf).gather(1, order)


def with_text(
    store: PassageStore,
    rows: Int64[Tensor, "bsz n_context"],
    scores: Float[Tensor, "bsz n_context"],
) -> Retrieved:
    """Look up the text of the rows."""
    passages = tuple(tuple(store.passages(query_rows)) for query_rows in rows.tolist())
    return Retrieved(passages, scores, rows)
