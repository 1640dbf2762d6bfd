"""Leave-one-out perplexity distillation (Atlas, section 2.2).

gold_k = -(1/T) · log p_LM(a | q, {d_j : j ≠ k})
"""

from __future__ import annotations

from typing import ClassVar, final

from jaxtyping import Bool, Float
from torch import Tensor

from atlas_lm.objectives.divergence import Distillation, floored, required, target_tokens
from atlas_lm.types import ReaderSignals, Signal


def loop_gold_score(
    leave_one_out: Float[Tensor, "bsz n_context length"],
    target_mask: Bool[Tensor, "bsz length"],
) -> Float[Tensor, "bsz n_context"]:
    """Return the mean nats per target token without passage k; higher is more useful."""
    total = (leave_one_out * target_mask.unsqueeze(1)).sum(dim=-1)
    return -total / target_tokens(target_mask)


@final
class Loop(Distillation):
    """The retriever learns which passages the reader misses most when they are taken away."""

    name: ClassVar[str] = "loop"
    needs: ClassVar[Signal] = "leave_one_out"

    def gold_score(self, signals: ReaderSignals) -> Float[Tensor, "bsz n_context"]:
        """Return -(1/T) · log p_LM(a | q, {d_j : j ≠ k})."""
        log_likelihood = required(signals.leave_one_out, self.needs)
        log_likelihood = floored(log_likelihood, self.config.likelihood_floor)
        return loop_gold_score(log_likelihood, signals.target_mask)
