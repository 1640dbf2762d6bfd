"""Perplexity distillation (Atlas, section 2.2; LSR in REPLUG and RA-DIT).

gold_k = (1/T) · log p_LM(a | q, d_k) = (1/T) · Σ_t log p_LM(a_t | a_<t, q, d_k)
"""

from __future__ import annotations

from typing import ClassVar, final

from jaxtyping import Bool, Float
from torch import Tensor

from atlas_lm.objectives.divergence import Distillation, floored, required, target_tokens
from atlas_lm.types import ReaderSignals, Signal


def pdist_gold_score(
    passage_log_likelihood: Float[Tensor, "bsz n_context length"],
    target_mask: Bool[Tensor, "bsz length"],
) -> Float[Tensor, "bsz n_context"]:
    """Return the mean log-likelihood of a target token given one passage at a time, in nats."""
    total = (passage_log_likelihood * target_mask.unsqueeze(1)).sum(dim=-1)
    return total / target_tokens(target_mask)


@final
class PDist(Distillation):
    """The retriever learns which passages, read alone, make the target likely."""

    name: ClassVar[str] = "pdist"
    needs: ClassVar[Signal] = "passage_log_likelihood"

    def gold_score(self, signals: ReaderSignals) -> Float[Tensor, "bsz n_context"]:
        """Return (1/T) · log p_LM(a | q, d_k)."""
        log_likelihood = required(signals.passage_log_likelihood, self.needs)
        log_likelihood = floored(log_likelihood, self.config.likelihood_floor)
        return pdist_gold_score(log_likelihood, signals.target_mask)
