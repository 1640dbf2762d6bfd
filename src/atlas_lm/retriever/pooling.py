"""Token vectors to one vector. Pads never count; sums run in float32 under any autocast."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from atlas_lm.retriever.settings import Pooling

PoolingFunction = Callable[
    [Float[Tensor, "n length dim"], Bool[Tensor, "n length"]], Float[Tensor, "n dim"]
]
"""Last hidden states and the mask of real tokens to one vector a row."""


def mean_pool(
    hidden: Float[Tensor, "n length dim"], mask: Bool[Tensor, "n length"]
) -> Float[Tensor, "n dim"]:
    """Return the mean of the real tokens' vectors (Contriever; Izacard et al. 2021, section 3)."""
    return _masked_sum(hidden, mask) / _lengths(mask)


def sqrt_pool(
    hidden: Float[Tensor, "n length dim"], mask: Bool[Tensor, "n length"]
) -> Float[Tensor, "n dim"]:
    """Return the sum of the real tokens' vectors divided by the root of their number."""
    return _masked_sum(hidden, mask) / _lengths(mask).sqrt()


def cls_pool(
    hidden: Float[Tensor, "n length dim"], mask: Bool[Tensor, "n length"]
) -> Float[Tensor, "n dim"]:
    """Return the first token's vector (DPR; Karpukhin et al. 2020, section 3.1)."""
    return hidden[:, 0].float()


def last_pool(
    hidden: Float[Tensor, "n length dim"], mask: Bool[Tensor, "n length"]
) -> Float[Tensor, "n dim"]:
    """Return the last real token's vector (encoders made of decoder-only models)."""
    last = mask.sum(dim=1) - 1
    return hidden[torch.arange(len(hidden), device=hidden.device), last].float()


POOLINGS: Mapping[Pooling, PoolingFunction] = {
    "mean": mean_pool,
    "cls": cls_pool,
    "last": last_pool,
    "sqrt": sqrt_pool,
}
"""Name to function."""


def _masked_sum(
    hidden: Float[Tensor, "n length dim"], mask: Bool[Tensor, "n length"]
) -> Float[Tensor, "n dim"]:
    return hidden.float().masked_fill(~mask[..., None], 0.0).sum(dim=1)


def _lengths(mask: Bool[Tensor, "n length"]) -> Float[Tensor, "n 1"]:
    return mask.sum(dim=1, keepdim=True).float()
