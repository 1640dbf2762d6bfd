"""Negatives of all processes: embeddings are gathered with their gradient.

Every process embeds its own part of the global batch and scores its queries against everybody's
keys. Its loss is the sum over its own queries divided by the queries of all, and gradients are
summed over processes, so W processes make the update that one makes of the same global batch
(cross-device negatives as in Qu et al. 2021, RocketQA, section 4.1).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from atlas_lm.runtime import distributed


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        parts = distributed.gather(own)
        ctx.counts = [len(part) for part in parts]
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        own = ctx.counts[distributed.world().rank]
        parts = list(torch.split(gradients[0].contiguous(), ctx.counts))
        received = distributed.exchange(parts, [own] * len(parts))
        return torch.stack(received).sum(dim=0)


def gather_with_gradient(own: Float[Tensor, "n dim"]) -> Float[Tensor, "n_all dim"]:
    """Return the rows of all processes, by rank; gradients flow back to where a row came from.

    Collective, and so is its backward pass.
    """
    if distributed.world().size == 1:
        return own
    gathered: Tensor = _Gathered.apply(own)  # type: ignore[no-untyped-call]
    return gathered


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Add up every parameter's gradient over all processes, in place. Collective.

    A parameter without a gradient here counts as zero and has one afterwards.
    """
    if distributed.world().size == 1:
        return
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        distributed.add_up(parameter.grad)
