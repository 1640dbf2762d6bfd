"""Attention of a decoder-only reader: which layers look how far back, and ADist's measure.

The model keeps its own attention: a function registered with transformers' attention interface
calls scaled-dot-product attention and, where a recorder travels with the forward pass as a keyword,
also adds up what the target's tokens looked at. Masks travel the way transformers has for them, one
for all layers or one for each kind; a sliding window counts positions, not columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from atlas_lm.reader.causal_layout import Layout
from atlas_lm.runtime.errors import InputError

NAME = "atlas_lm_causal"
"""The attention implementation's name in transformers' registry."""

FULL, SLIDING = "full_attention", "sliding_attention"
"""The kinds of layers that can be masked, as transformers calls them."""


@dataclass(frozen=True)
class _Scores:
    """How a layer makes probabilities of queries and keys."""

    scaling: float
    softcap: float | None
    """Scores are capped to this much either side (Gemma 2)."""
    sinks: Float[Tensor, " heads"] | None
    """A score of each head's own that takes its share and gives nothing (gpt-oss)."""

    def probability(
        self,
        query: Float[Tensor, "bsz heads length head_dim"],
        key: Float[Tensor, "bsz kv_heads seen head_dim"],
        mask: Tensor,
    ) -> Float[Tensor, "bsz heads length seen"]:
        """Return attention probabilities in float32 under a boolean or an additive mask."""
        score = query @ _per_head(key, query.shape[1]).transpose(2, 3) * self.scaling
        if self.softcap is not None:
            score = self.softcap * torch.tanh(score / self.softcap)
        score = score.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else score + mask
        if self.sinks is not None:
            sinks = self.sinks.to(score.dtype).view(1, -1, 1, 1)
            score = torch.cat([score, sinks.expand(*score.shape[:3], 1)], -1)
        return score.float().softmax(-1)[..., : key.shape[2]]


class PassageRecorder:
    """Adds up attention x value norm from the tokens that predict the target onto each passage."""

    def __init__(self, layout: Layout, target_mask: Bool[Tensor, "bsz length"], n: int) -> None:
        """Record for a layout with one copy and ``n`` passages."""
        self._columns = layout.columns
        self._target_mask = target_mask
        passages = torch.arange(1, n + 1, device=layout.segments.device)
        self._belongs = (layout.segments[..., None] == passages).float()
        self._total: Tensor | float = 0.0
        self._layers = 0

    @torch.no_grad()
    def record(
        self,
        query: Float[Tensor, "bsz heads length head_dim"],
        key: Float[Tensor, "bsz kv_heads seen head_dim"],
        value: Float[Tensor, "bsz kv_heads seen value_dim"],
        mask: Float[Tensor, "bsz 1 length seen"],
        scores: _Scores,
    ) -> None:
        """Add one layer: summed over the target's tokens, averaged over heads."""
        query, mask = query[:, :, self._columns], mask[:, :, self._columns]
        probability = scores.probability(query.float(), key.float(), mask.float())
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
        InputError: the model's attention cannot be chosen, so passages could not be kept apart, or
            some of its layers do something else than attend to tokens.
    """
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    remedy = "use another one (Llama, Qwen, Mistral, Gemma, GPT-2 ...)"
    if not model._supports_attention_backend:
        raise InputError(
            f"{type(model).__name__}: transformers does not let its attention be chosen, so its "
            f"passages cannot be masked; {remedy}"
        )
    others = _layer_types(model) - {FULL, SLIDING}
    if others or model._is_stateful:
        kinds = ", ".join(sorted(others)) or "recurrent"
        raise InputError(
            f"{type(model).__name__}: not all of its layers attend to tokens, in full or within a "
            f"window ({kinds}), so its passages cannot be masked; {remedy}"
        )
    model.set_attn_implementation(NAME)


def additive_mask(
    model: Any,
    visible: Bool[Tensor, "bsz 1 length seen"],
    positions: Int64[Tensor, "bsz seen"],
) -> Tensor | dict[str, Tensor]:
    """Return what a model adds to attention scores: one mask, or one for each kind of layer.

    ``positions`` are those of what may be looked at, the tokens that look last; a layer with a
    sliding window looks fewer positions back than its window has.
    """
    window = getattr(model.config.get_text_config(decoder=True), "sliding_window", None)
    kinds = _layer_types(model)
    if not window or (kinds and SLIDING not in kinds):
        return _additive(visible, model.dtype)
    back = positions[:, -visible.shape[2] :, None] - positions[:, None]
    near = _additive(visible & (back[:, None] < window), model.dtype)
    return {FULL: _additive(visible, model.dtype), SLIDING: near} if kinds else near


def _layer_types(model: Any) -> set[str]:
    """Return the kinds of a model's layers; none where all are of one kind."""
    return set(getattr(model.config.get_text_config(decoder=True), "layer_types", None) or ())


def _additive(visible: Bool[Tensor, "*shape"], dtype: torch.dtype) -> Float[Tensor, "*shape"]:
    zeros = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return zeros.masked_fill_(~visible, torch.finfo(dtype).min)


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    passage_recorder: PassageRecorder | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    scores = _Scores(query.shape[-1] ** -0.5 if scaling is None else scaling, softcap, s_aux)
    if passage_recorder is not None and attention_mask is not None:
        passage_recorder.record(query, key, value, attention_mask, scores)
    if softcap is None and s_aux is None:
        attended: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scores.scaling, **kwargs
        )
        return attended
    return _spelt_out(module, query, key, value, attention_mask, scores, **kwargs)


def _spelt_out(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scores: _Scores,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Return attention with capped scores or sinks, which the fused kernels do not offer."""
    if mask is None:
        length, seen = query.shape[2], key.shape[2]
        mask = torch.ones(length, seen, dtype=torch.bool, device=query.device).tril(seen - length)
    probability = scores.probability(query, key, mask).to(value.dtype)
    probability = torch.nn.functional.dropout(probability, dropout, module.training)
    attended = probability @ _per_head(value, query.shape[1])
    return attended.transpose(1, 2).contiguous(), None


def _per_head(part: Tensor, heads: int) -> Tensor:
    """Return keys or values repeated for the heads that share them."""
    return part.repeat_interleave(heads // part.shape[1], 1)
