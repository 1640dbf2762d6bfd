"""How far the retriever has moved since the index was made."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity


@dataclass(frozen=True)
class Drift:
    """Old against fresh embeddings of the same passages, and what queries make of both."""

    mean_cosine: float
    """Mean cosine between a passage's old and fresh embedding; 1 means nothing moved."""
    topk_kept: float
    """Share of each query's fresh top k that the old embeddings also put there."""


def measure_drift(
    query_emb: Float[Tensor, "bsz dim"],
    old: Float[Tensor, "n dim"],
    fresh: Float[Tensor, "n dim"],
    *,
    topk: int,
) -> Drift:
    """Compare the index's vectors of a sample of passages with the current retriever's."""
    topk = min(topk, len(fresh))
    found = [(query_emb @ side.to(query_emb).T).topk(topk).indices for side in (old, fresh)]
    kept = (found[0].unsqueeze(-1) == found[1].unsqueeze(-2)).any(dim=-2)
    cosine = cosine_similarity(old.to(fresh), fresh, dim=-1)
    return Drift(cosine.mean().item(), kept.float().mean().item())
