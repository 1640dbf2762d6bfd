"""DPR's training (Karpukhin et al. 2020, section 3): a question finds its passage among all others.

    L = -log exp(q·p⁺/τ) / (Σ_j exp(q·p_j/τ))

over the positives of the whole batch and everybody's hard negatives, of all processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from atlas_lm.retriever.bi_encoder import BiEncoder
from atlas_lm.retriever.contrastive_shared import gather_with_gradient
from atlas_lm.retriever.info_nce import info_nce
from atlas_lm.retriever.supervised_data import QuestionSampler
from atlas_lm.runtime import distributed
from atlas_lm.runtime.errors import InputError
from atlas_lm.types import Passage


@dataclass(frozen=True, kw_only=True)
class SupervisedConfig:
    """Which passages are told apart."""

    hard_negatives: int = 1
    """Negatives a question beside the passages of the other questions."""
    temperature: float = 1.0
    """Divides the similarities in the loss."""
    untie: bool = False
    """Whether passages get an encoder of their own (DPR), a copy of the query encoder's start."""

    def __post_init__(self) -> None:
        if self.hard_negatives < 0:
            raise InputError(f"supervised.hard_negatives={self.hard_negatives}: at least 0")
        if not self.temperature > 0:
            raise InputError(f"supervised.temperature={self.temperature} must be positive")


class SupervisedLearner:
    """A `contrastive_fit.Learner` over a bi-encoder and judged questions."""

    def __init__(
        self,
        retriever: BiEncoder,
        sampler: QuestionSampler,
        cfg: SupervisedConfig,
        *,
        batch_tokens: int = 0,
    ) -> None:
        self.retriever = retriever
        self.sampler = sampler
        self.cfg = cfg
        self.batch_tokens = batch_tokens or None

    @property
    def module(self) -> nn.Module:
        """The bi-encoder."""
        return self.retriever

    def loss(self, step: int) -> tuple[Tensor, Mapping[str, float]]:
        """Return this process's share of a step's loss; see `contrastive_fit.Learner`."""
        share = distributed.world().share(self.sampler.batch_size)
        batch = self.sampler.batch(step, share)
        query_emb = self.retriever.embed_queries(
            [judged.query for judged in batch], batch_tokens=self.batch_tokens
        )
        positives = [judged.positives[0] for judged in batch]
        negatives = [passage for judged in batch for passage in judged.negatives]
        emb = self._embed([*positives, *negatives])
        key_emb = torch.cat(
            [
                gather_with_gradient(emb[: len(positives)]),
                gather_with_gradient(emb[len(positives) :]),
            ]
        )
        own = torch.arange(share.start, share.stop, device=query_emb.device)
        count = self.sampler.batch_size
        return info_nce(query_emb, key_emb, own, temperature=self.cfg.temperature, count=count)

    def names(self, step: int) -> list[str]:
        """Return where the questions of this process's share of a step are written."""
        return self.sampler.named(step, distributed.world().share(self.sampler.batch_size))

    def follow(self) -> None:
        """Nothing follows an update."""

    def tensors(self) -> Mapping[str, Mapping[str, Tensor]]:
        """Return nothing: weights and optimizer are all there is."""
        return {}

    def restore(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """There is nothing to take up."""

    def _embed(self, passages: list[Passage]) -> Tensor:
        return self.retriever.embed_passages(passages, batch_tokens=self.batch_tokens)
