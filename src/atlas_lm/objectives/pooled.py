"""Candidates of all queries, for every query: more passages for the retriever to tell apart.

A query's own K passages keep what the reader made of them. Those of the other queries, which the
reader has not read for it, count as useless: their gold probability is 0. So the loss stays
KL(gold || p_retr), or EMDR²'s marginal, and only p_retr's softmax runs over more passages. Those
that a query may not be shown, such as the one that its text was cut from, are none of them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from atlas_lm.types import ReaderSignals

USELESS = 1e4
"""Nats by which the reader is said to prefer any passage to one that is not the query's own."""


def foreign(
    known: Sequence[Collection[str]], ids: Sequence[str], texts: Sequence[str]
) -> Bool[Tensor, "bsz pool"]:
    """Return True where a passage of the pool is another query's, once for each text.

    A text may have several ids: passages of a data file have their own for every question, and a
    corpus may hold copies.

    Args:
        known: ids of each query's passages, which are in the pool, and of those that it may not be
            shown.
        ids: of the passages of all queries.
        texts: what is embedded for each, or digests of it; of repeated ones the first counts.
    """
    first = torch.tensor([texts.index(text) == place for place, text in enumerate(texts)])
    rows = []
    for mine in map(set, known):
        same = {text for id, text in zip(ids, texts, strict=True) if id in mine}
        rows.append([text not in same for text in texts])
    return torch.tensor(rows, dtype=torch.bool).view(len(known), len(texts)) & first


def widened_score(
    score: Float[Tensor, "bsz n_context"],
    pool_score: Float[Tensor, "bsz pool"],
    is_foreign: Bool[Tensor, "bsz pool"],
) -> Float[Tensor, "bsz wide"]:
    """Return the scores of each query's own passages, then of the pool: -inf where not foreign."""
    hidden = pool_score.masked_fill(~is_foreign.to(pool_score.device), -torch.inf)
    return torch.cat([score, hidden], dim=-1)


def widened_signals(signals: ReaderSignals, count: int) -> ReaderSignals:
    """Return the signals with ``count`` passages more that the reader finds useless."""

    def wider(value: Tensor | None, filling: float) -> Tensor | None:
        if value is None:
            return None
        shape = (value.shape[0], count, *value.shape[2:])
        return torch.cat([value, value.new_full(shape, filling)], dim=1)

    return ReaderSignals(
        target_mask=signals.target_mask,
        passage_log_likelihood=wider(signals.passage_log_likelihood, -USELESS),
        leave_one_out=wider(signals.leave_one_out, USELESS),
        attention_mass=wider(signals.attention_mass, -USELESS),
    )
