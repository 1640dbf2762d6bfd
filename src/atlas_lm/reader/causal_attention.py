"""ADist's measure for a decoder-only reader: attention probability times value norm, by passage.

The model keeps its own attention: a function registered with transformers' attention interface
calls scaled-dot-product attention and, where a recorder travels with the forward pass as a keyword,
also adds up what the target's tokens looked at.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from atlas_lm.reader.causal_layout import Layout

NAME = "atlas_lm_causal"
"""The attention implementation's name in transformers' registry."""


class PassageRecorder:
    """Adds up attention x value norm from the tokens that predict the target onto each passage."""

    def __init__(self, layout: Layout, target_mask: Bool[Tensor, "bsz length"], n: int) -> None:
        """Record for a layout with one copy and ``n`` passages."""
        self._columns = layout.columns
        self._mask = layout.mask[:, :, layout.columns]
        self._target_mask = target_mask
        passages = torch.arange(1, n + 1, device=layout.segments.device)
        self._belongs = (layout.segments[..., None] == passages).float()
        self._total: Tensor | float = 0.0
        self._layers = 0

    def record(
        self,
        query: Float[Tensor, "bsz heads length head_dim"],
        key: Float[Tensor, "bsz kv_heads seen head_dim"],
        value: Float[Tensor, "bsz kv_heads seen value_dim"],
        scaling: float,
    ) -> None:
        """Add one layer: summed over the target's tokens, averaged over heads."""
        query, key, value = query.detach(), key.detach(), value.detach()
        groups = query.shape[1] // key.shape[1]
        asking = query[:, :, self._columns].float()
        score = asking @ key.float().repeat_interleave(groups, 1).transpose(2, 3) * scaling
        probability = score.masked_fill(~self._mask, -torch.inf).softmax(-1)
        looked = (probability * self._target_mask[:, None, :, None]).sum(2)
        norm = value.float().norm(dim=-1).repeat_interleave(groups, 1)
        self._total = self._total + torch.einsum(
            "bs,bsk->bk", (looked * norm).mean(1), self._belongs
        )
        self._layers += 1

    def mass(self) -> Float[Tensor, "bsz n_context"]:
        """Return the mass on each passage, averaged over layers."""
        if not isinstance(self._total, Tensor):
            raise RuntimeError("no attention was recorded")
        return self._total / self._layers


def register() -> None:
    """Make `NAME` known to transformers; doing so again changes nothing."""
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    passage_recorder: PassageRecorder | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    if passage_recorder is not None:
        scaling = kwargs.get("scaling") or query.shape[-1] ** -0.5
        passage_recorder.record(query, key, value, scaling)
    attended: tuple[Tensor, None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, **kwargs
    )
    return attended
