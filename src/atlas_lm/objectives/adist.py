"""Attention distillation (Izacard and Grave 2021; Atlas, section 2.2).

gold_k = mean over layers and heads of Σ_t Σ_{i in d_k} α_ti · ‖v_i‖

with α the cross-attention probability of target token t on passage token i and v_i its value.
"""

from __future__ import annotations

from typing import ClassVar, Literal, final

from jaxtyping import Bool, Float
from torch import Tensor

from atlas_lm.objectives.divergence import Distillation, required, target_tokens
from atlas_lm.types import ReaderSignals, Signal

REFERENCE_CONSTANT = 256
"""The original code divides by 256 x layers x target tokens, whatever the passages' length is."""


def adist_gold_score(
    attention_mass: Float[Tensor, "bsz n_context"],
    target_mask: Bool[Tensor, "bsz length"],
    *,
    normaliser: Literal["none", "reference"] = "none",
) -> Float[Tensor, "bsz n_context"]:
    """Return the attention mass of each passage, as measured or on the original code's scale.

    The original code sums over layers and divides by 256 x layers x target tokens; the mass here
    is already a mean over layers, so "reference" divides it by 256 x target tokens.
    """
    if normaliser == "none":
        return attention_mass
    return attention_mass / (REFERENCE_CONSTANT * target_tokens(target_mask))


@final
class ADist(Distillation):
    """The retriever learns which passages the decoder attends to while it writes the target."""

    name: ClassVar[str] = "adist"
    needs: ClassVar[Signal] = "attention_mass"

    def gold_score(self, signals: ReaderSignals) -> Float[Tensor, "bsz n_context"]:
        """Return the attention mass of each passage."""
        return adist_gold_score(
            required(signals.attention_mass, self.needs),
            signals.target_mask,
            normaliser=self.config.adist_normaliser,
        )
