"""InfoNCE (van den Oord et al. 2018): each query's own key among all keys."""

from __future__ import annotations

from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from atlas_lm.retriever.embedding import inner_products


def info_nce(
    query_emb: Float[Tensor, "n dim"],
    key_emb: Float[Tensor, "n_keys dim"],
    own: Int64[Tensor, " n"],
    *,
    temperature: float,
    count: int,
) -> tuple[Float[Tensor, ""], dict[str, float]]:
    """Return -log softmax of each query's own key, and how many queries find it first.

    Both are summed over these queries and divided by ``count``, the queries of all processes, so
    that their shares add up to the means.

    Args:
        query_emb: these queries.
        key_emb: the keys of all queries, and further negatives.
        own: the row of each query's key.
        temperature: what inner products are divided by.
        count: queries of the global batch.
    """
    logits = inner_products(query_emb, key_emb) / temperature
    loss = F.cross_entropy(logits, own, reduction="sum") / count
    right = (logits.detach().argmax(dim=-1) == own).sum()
    return loss, {"accuracy": float(right) / count}
