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
from atlas_lm.runtime.errors import InputError

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
        softcap: float | None,
    ) -> None:
        """Add one layer: summed over the target's tokens, averaged over heads."""
        query, key, value = query.detach(), key.detach(), value.detach()
        score = _score(query[:, :, self._columns].float(), key.float(), scaling, softcap)
        probability = score.masked_fill(~self._mask, -torch.inf).softmax(-1)
        looked = (probability * self._target_mask[:, None, :, None]).sum(2)
        norm = _per_head(value.float().norm(dim=-1), query.shape[1])
        mass = torch.einsum("bs,bsk->bk", (looked * norm).mean(1), self._belongs)
        self._total = self._total + mass
        self._layers += 1

    def mass(self) -> Float[Tensor, "bsz n_context"]:
        """Return the mass on each passage, averaged over layers."""
        if not isinstance(self._total, Tensor):
            raise RuntimeError("no attention was recorded")
        return self._total / self._layers


def install(model: Any) -> None:
    """Make a model attend through this module, and what it returns stay as it was.

    Raises:
        InputError: the model's attention cannot be chosen, so passages could not be kept apart.
    """
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    if not model._supports_attention_backend:
        raise InputError(
            f"{type(model).__name__}: transformers does not let its attention be chosen, so its "
            "passages cannot be masked; use one that does (Llama, Qwen, Mistral, Gemma, GPT-2 ...)"
        )
    model.set_attn_implementation(NAME)


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    passage_recorder: PassageRecorder | None = None,
    softcap: float | None = None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if passage_recorder is not None:
        passage_recorder.record(query, key, value, scaling, softcap)
    if softcap is None:
        attended: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
        return attended
    return _capped_attention(module, query, key, value, attention_mask, scaling, softcap, **kwargs)


def _capped_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    softcap: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Return attention with capped scores (Gemma 2), which the fused kernels do not offer."""
    score = _score(query, key, scaling, softcap)
    if attention_mask is None:
        ones = torch.ones(score.shape[-2:], dtype=torch.bool, device=score.device)
        score = score.masked_fill(~ones.tril(score.shape[-1] - score.shape[-2]), -torch.inf)
    elif attention_mask.dtype == torch.bool:
        score = score.masked_fill(~attention_mask, -torch.inf)
    else:
        score = score + attention_mask
    probability = score.float().softmax(-1).to(value.dtype)
    probability = torch.nn.functional.dropout(probability, dropout, module.training)
    attended = probability @ _per_head(value, query.shape[1])
    return attended.transpose(1, 2).contiguous(), None


def _score(query: Tensor, key: Tensor, scaling: float, softcap: float | None) -> Tensor:
    """Return attention scores before the mask, ``bsz heads length seen``."""
    score = query @ _per_head(key, query.shape[1]).transpose(2, 3) * scaling
    return score if softcap is None else softcap * torch.tanh(score / softcap)


def _per_head(part: Tensor, heads: int) -> Tensor:
    """Return keys or values repeated for the heads that share them."""
    return part.repeat_interleave(heads // part.shape[1], 1)
