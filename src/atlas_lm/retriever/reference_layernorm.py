"""The LayerNorm of the original Atlas's BERT, which divides by the second moment.

Stock LayerNorm: y = w (x - mean) / sqrt(var + eps) + b. There: the variance is replaced by
mean(x^2), of which it is a part: var = mean(x^2) - mean^2. Retrievers trained with the original
code were trained so; their embeddings need it.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class ReferenceLayerNorm(nn.Module):
    """y = w (x - mean(x)) / sqrt(mean(x^2) + eps) + b, over the last axis, in float32."""

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter, eps: float) -> None:
        super().__init__()
        self.weight = weight
        self.bias = bias
        self.eps = eps

    def forward(self, x: Float[Tensor, "... dim"]) -> Float[Tensor, "... dim"]:
        """Normalise the last axis; the result has the dtype of ``x``."""
        wide = x.float()
        second_moment = wide.square().mean(dim=-1, keepdim=True)
        normal = (wide - wide.mean(dim=-1, keepdim=True)) * torch.rsqrt(second_moment + self.eps)
        return (self.weight * normal + self.bias).to(x.dtype)


def use_reference_layernorm_(module: nn.Module) -> int:
    """Replace every `nn.LayerNorm` below ``module`` in place and return how many there were.

    Parameters are kept as they are, under the same names, so weights load and save unchanged.
    """
    replaced = 0
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.LayerNorm):
                setattr(parent, name, ReferenceLayerNorm(child.weight, child.bias, child.eps))
                replaced += 1
    return replaced
