"""ADist's measure: cross-attention probability times value norm, gathered by passage."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from atlas_lm.reader.packing import Layout


class AttentionRecorder:
    """Adds up cross-attention x value norm over the target's tokens, layer by layer."""

    def __init__(
        self,
        target_mask: Bool[Tensor, "bsz length"],
        keys: Sequence[Float[Tensor, "bsz heads source head_dim"]],
    ) -> None:
        self._target_mask = target_mask
        self._keys = keys
        self._layers = 0
        self._total: Float[Tensor, "bsz source"] | None = None

    def looks_for(self, key: Tensor) -> bool:
        """Return whether these are cross-attention's keys; self-attention passes by as well."""
        return any(key is known for known in self._keys)

    def record(
        self,
        probability: Float[Tensor, "bsz heads length source"],
        value: Float[Tensor, "bsz heads source head_dim"],
    ) -> None:
        """Add one layer: summed over the target's tokens, averaged over heads."""
        weight = self._target_mask[:, None, None, :].float()
        attention = (weight @ probability.float()).squeeze(2)
        mass = (attention * value.float().norm(dim=-1)).mean(dim=1)
        self._total = mass if self._total is None else self._total + mass
        self._layers += 1

    def by_passage(self, layout: Layout) -> Float[Tensor, "bsz n_context"]:
        """Return the mass on each passage, averaged over layers."""
        if self._total is None:
            raise RuntimeError("no cross-attention was recorded")
        bsz, n_rows = layout.lengths.shape
        mass = torch.zeros(bsz, n_rows + 1, device=self._total.device)
        mass.scatter_add_(1, layout.passage, self._total / self._layers)
        return mass[:, :n_rows]
