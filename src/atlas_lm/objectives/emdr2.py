"""End-to-end training of multi-document reader and retriever (Sachan et al. 2021; Atlas, 2.2).

loss = -log Σ_k p_LM(a | q, d_k) · p_retr(k)                              "sequence", the default
loss = -Σ_t log Σ_k p_LM(a_t | a_<t, q, d_k) · p_retr(k)                  "token"
loss = -log Σ_k p_LM(a | q, d_k)^(1/(T · temperature_gold)) · p_retr(k)      "mean"

p_LM carries no gradient; gold_k = log p_LM(a | q, d_k), the sum over the target's tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from atlas_lm.objectives.config import ObjectiveConfig
from atlas_lm.objectives.divergence import (
    describe,
    floored,
    log_distribution,
    required,
    target_tokens,
)
from atlas_lm.types import ReaderSignals, Signal


def emdr2_gold_score(
    passage_log_likelihood: Float[Tensor, "bsz n_context length"],
    target_mask: Bool[Tensor, "bsz length"],
) -> Float[Tensor, "bsz n_context"]:
    """Return log p_LM(a | q, d_k), summed over the target's tokens, in nats."""
    return (passage_log_likelihood * target_mask.unsqueeze(1)).sum(dim=-1)


def sequence_marginal_loss(
    retriever_log_prob: Float[Tensor, "bsz n_context"],
    gold_score: Float[Tensor, "bsz n_context"],
) -> Float[Tensor, " bsz"]:
    """Return -log Σ_k p_LM(a | q, d_k) · p_retr(k) of each query, in nats per target."""
    return -torch.logsumexp(gold_score.detach() + retriever_log_prob, dim=-1)


def token_marginal_loss(
    retriever_log_prob: Float[Tensor, "bsz n_context"],
    passage_log_likelihood: Float[Tensor, "bsz n_context length"],
    target_mask: Bool[Tensor, "bsz length"],
) -> Float[Tensor, " bsz"]:
    """Return -Σ_t log Σ_k p_LM(a_t | a_<t, q, d_k) · p_retr(k), divided by the mean target length.

    The mean over queries is then the mean over all target tokens of these queries, which is what
    the original code reports. The divisor is that of the micro-batch, as it is there.
    """
    joint = passage_log_likelihood.detach() + retriever_log_prob.unsqueeze(-1)
    total = (-torch.logsumexp(joint, dim=1) * target_mask).sum(dim=-1)
    return total * len(total) / target_mask.sum().clamp(min=1)


@final
@dataclass(frozen=True)
class EMDR2:
    """The retriever maximises the likelihood of the target with the passage marginalised out."""

    config: ObjectiveConfig
    name: ClassVar[str] = "emdr2"
    needs: ClassVar[Signal] = "passage_log_likelihood"

    @property
    def logit_temperature(self) -> float:
        """``temperature_gold`` at token level, as in the original code; 1 at sequence level."""
        token_level = self.config.emdr2_marginal == "token"
        return self.config.temperature_gold if token_level else 1.0

    def gold_score(self, signals: ReaderSignals) -> Float[Tensor, "bsz n_context"]:
        """Return log p_LM(a | q, d_k), summed over the target's tokens."""
        return emdr2_gold_score(self._log_likelihood(signals), signals.target_mask)

    def log_gold(self, signals: ReaderSignals) -> Float[Tensor, "bsz n_context"]:
        """Return log softmax_k of what passages weigh: the posterior under a uniform prior."""
        return log_distribution(self._log_weight(signals), 1.0)

    def loss(
        self, retriever_score: Float[Tensor, "bsz n_context"], signals: ReaderSignals
    ) -> Float[Tensor, " bsz"]:
        """Return the negative log of the marginal likelihood of each query's target, in nats."""
        log_prob = log_distribution(retriever_score, self.config.temperature_score)
        if self.config.emdr2_marginal != "token":
            return sequence_marginal_loss(log_prob, self._log_weight(signals))
        log_likelihood = self._log_likelihood(signals)
        return token_marginal_loss(log_prob, log_likelihood, signals.target_mask)

    def diagnostics(
        self, retriever_score: Float[Tensor, "bsz n_context"], signals: ReaderSignals
    ) -> dict[str, float]:
        """Return ``kl``, ``entropy_gold`` and ``entropy_retriever``, summed over queries."""
        return describe(
            log_distribution(retriever_score.detach(), self.config.temperature_score),
            self.log_gold(signals),
        )

    def _log_likelihood(self, signals: ReaderSignals) -> Float[Tensor, "bsz n_context length"]:
        log_likelihood = required(signals.passage_log_likelihood, self.needs)
        return floored(log_likelihood, self.config.likelihood_floor)

    def _log_weight(self, signals: ReaderSignals) -> Float[Tensor, "bsz n_context"]:
        """Return the logarithm of what each passage weighs in the marginal."""
        score = self.gold_score(signals)
        if self.config.emdr2_marginal == "mean":
            score = score / target_tokens(signals.target_mask) / self.config.temperature_gold
        return score
