"""Distributions over passages and the divergence between them.

With s_k the retriever's score and g_k the gold score of passage k:

    p_retr(k) = softmax_k(s_k / temperature_score)
    gold(k)   = softmax_k(g_k / temperature_gold)          no gradient
    KL(gold || p_retr) = Σ_k gold(k) · (log gold(k) - log p_retr(k))      with 0 · log 0 = 0

All of it in float32 or better: half-precision scores are cast first.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from atlas_lm.objectives.config import ObjectiveConfig
from atlas_lm.types import ReaderSignals, Signal


class Objective(Protocol):
    """How the retriever is trained: a signal of the reader to a loss per query."""

    name: ClassVar[str]
    needs: ClassVar[Signal]
    """What the reader must be asked about each passage."""

    @property
    def logit_temperature(self) -> float:
        """What the reader divides its vocabulary logits by when it makes the signal."""
        ...

    def gold_score(self, signals: ReaderSignals) -> Float[Tensor, "bsz n_context"]:
        """Return how useful the reader found each passage, before any softmax; no gradient."""
        ...

    def loss(
        self, retriever_score: Float[Tensor, "bsz n_context"], signals: ReaderSignals
    ) -> Float[Tensor, " bsz"]:
        """Return each query's loss, in nats; the gradient flows into ``retriever_score`` only."""
        ...

    def diagnostics(
        self, retriever_score: Float[Tensor, "bsz n_context"], signals: ReaderSignals
    ) -> dict[str, float]:
        """Return ``kl``, ``entropy_gold`` and ``entropy_retriever``, summed over queries."""
        ...


def floored(
    log_likelihood: Float[Tensor, "bsz n_context length"], floor: float | None
) -> Float[Tensor, "bsz n_context length"]:
    """Return max(log-likelihood, -floor) of every target token; as it was if ``floor`` is None."""
    return log_likelihood if floor is None else log_likelihood.clamp(min=-floor)


def log_distribution(
    score: Float[Tensor, "bsz n_context"], temperature: float
) -> Float[Tensor, "bsz n_context"]:
    """Return log softmax_k(score_k / temperature), in float32 or better."""
    if score.dtype in (torch.float16, torch.bfloat16):
        score = score.float()
    return torch.log_softmax(score / temperature, dim=-1)


def kl_divergence(
    gold_log_prob: Float[Tensor, "bsz n_context"], log_prob: Float[Tensor, "bsz n_context"]
) -> Float[Tensor, " bsz"]:
    """Return KL(gold || p) of each query, summed over passages, in nats.

    A passage whose gold probability is 0 contributes 0, whatever its log-probabilities are.
    """
    gold = gold_log_prob.exp()
    difference = (gold_log_prob - log_prob).masked_fill(gold == 0, 0.0)
    return (gold * difference).sum(dim=-1)


def entropy(log_prob: Float[Tensor, "bsz n_context"]) -> Float[Tensor, " bsz"]:
    """Return the entropy of each query's distribution, in nats, between 0 and log n_context."""
    return -torch.xlogy(log_prob.exp(), log_prob.exp()).sum(dim=-1)


def distillation_loss(
    retriever_score: Float[Tensor, "bsz n_context"],
    gold_score: Float[Tensor, "bsz n_context"],
    *,
    temperature_score: float,
    temperature_gold: float,
    reduction: Literal["sum", "mean"] = "sum",
) -> Float[Tensor, " bsz"]:
    """Return KL(gold || p_retr) of each query, summed over passages; no gradient into the gold.

    With ``reduction="mean"`` it is averaged over passages: 1/n_context of the divergence.
    """
    kl = kl_divergence(
        log_distribution(gold_score.detach(), temperature_gold),
        log_distribution(retriever_score, temperature_score),
    )
    return kl / retriever_score.shape[-1] if reduction == "mean" else kl


def describe(
    retriever_log_prob: Float[Tensor, "bsz n_context"],
    gold_log_prob: Float[Tensor, "bsz n_context"],
) -> dict[str, float]:
    """Return KL(gold || p_retr) and both entropies, summed over queries, in nats."""
    return {
        "kl": kl_divergence(gold_log_prob, retriever_log_prob).sum().item(),
        "entropy_gold": entropy(gold_log_prob).sum().item(),
        "entropy_retriever": entropy(retriever_log_prob).sum().item(),
    }


def target_tokens(target_mask: Bool[Tensor, "bsz length"]) -> Float[Tensor, "bsz 1"]:
    """Return the number of tokens of each target, at least 1."""
    return target_mask.sum(dim=-1, keepdim=True).clamp(min=1).float()


def required(signal: Tensor | None, needs: Signal) -> Tensor:
    """Return a signal that the reader was asked for, in float32 or better, without gradient."""
    assert signal is not None, f"the reader was not asked for {needs}"
    signal = signal.detach()
    return signal.float() if signal.dtype in (torch.float16, torch.bfloat16) else signal


@dataclass(frozen=True)
class Distillation(ABC):
    """An objective that minimises KL(gold || p_retr); what is gold is left to the subclass."""

    config: ObjectiveConfig
    logit_temperature: ClassVar[float] = 1.0

    @abstractmethod
    def gold_score(self, signals: ReaderSignals) -> Float[Tensor, "bsz n_context"]:
        """Return how useful the reader found each passage, before any softmax."""

    def log_gold(self, signals: ReaderSignals) -> Float[Tensor, "bsz n_context"]:
        """Return log softmax_k(gold_k / temperature_gold)."""
        return log_distribution(self.gold_score(signals), self.config.temperature_gold)

    def loss(
        self, retriever_score: Float[Tensor, "bsz n_context"], signals: ReaderSignals
    ) -> Float[Tensor, " bsz"]:
        """Return KL(gold || p_retr) of each query, in nats."""
        return distillation_loss(
            retriever_score,
            self.gold_score(signals),
            temperature_score=self.config.temperature_score,
            temperature_gold=self.config.temperature_gold,
            reduction=self.config.kl_reduction,
        )

    def diagnostics(
        self, retriever_score: Float[Tensor, "bsz n_context"], signals: ReaderSignals
    ) -> dict[str, float]:
        """Return ``kl``, ``entropy_gold`` and ``entropy_retriever``, summed over queries."""
        return describe(
            log_distribution(retriever_score.detach(), self.config.temperature_score),
            self.log_gold(signals),
        )
