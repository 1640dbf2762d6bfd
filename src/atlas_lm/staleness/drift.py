"""How far the retriever has moved since the index was made."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity


@dataclass(frozen=True)
class Drift:
    """The index's vectors of a sample of passages against the retriever's, and what queries see."""

    drift: float
    """Mean of 1 - cosine between a passage's vector in the index and a fresh one; 0: unmoved."""
    topk_overlap: float | None
    """Share of each query's fresh top k that the index's vectors put there too, in [0, 1]; None
    where there are no queries yet."""


def measure_drift(
    query_emb: Float[Tensor, "bsz dim"],
    stale: Float[Tensor, "n dim"],
    fresh: Float[Tensor, "n dim"],
    *,
    topk: int,
) -> Drift:
    """Compare the index's vectors of some passages with the current retriever's.

    The top k is that among these passages alone.
    """
    stale = stale.to(fresh)
    cosine = cosine_similarity(stale, fresh, dim=-1)
    drift = (1 - cosine.double()).mean().clamp(min=0).item()
    if not len(query_emb):
        return Drift(drift, None)
    topk = min(topk, len(fresh))
    found = [(query_emb.to(fresh) @ side.T).topk(topk).indices for side in (stale, fresh)]
    kept = (found[0].unsqueeze(-1) == found[1].unsqueeze(-2)).any(dim=-2)
    return Drift(drift, kept.double().mean().item())
