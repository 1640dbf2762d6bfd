"""Candidates of a stale index, put in the fresh retriever's order.

The index decides only which candidates are looked at; their order is then the one that a
refreshed index would give them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from atlas_lm.staleness.refresh import Corpus
from atlas_lm.types import Passage


class PassageEncoder(Protocol):
    """The passage side of a retriever."""

    def embed_corpus(self, passages: Sequence[Passage]) -> Float[Tensor, "n dim"]:
        """Return embeddings: eval mode, no gradient."""
        ...


def rerank(
    retriever: PassageEncoder,
    query_emb: Float[Tensor, "bsz dim"],
    store: Corpus,
    rows: Int64[Tensor, "bsz n_rerank"],
) -> tuple[Int64[Tensor, "bsz n_rerank"], Float[Tensor, "bsz n_rerank"]]:
    """Return the same rows, best first by the fresh inner product, and these inner products.

    A passage that several queries share is embedded once. Equal scores keep the index's order.
    """
    distinct, place = torch.unique(rows.cpu(), return_inverse=True)
    passage_emb = retriever.embed_corpus(store.passages(distinct.tolist()))
    candidates = passage_emb[place.to(passage_emb.device)]
    scores = torch.einsum("qd,qkd->qk", query_emb.to(candidates), candidates).cpu()
    scores, order = scores.sort(dim=-1, descending=True, stable=True)
    return rows.cpu().gather(-1, order), scores
