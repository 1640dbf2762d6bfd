"""Contriever's step (Izacard et al. 2021, section 3): pairs to embeddings to InfoNCE.

The batch is the global one: with several processes, keys of all are negatives of each.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from atlas_lm.retriever.bi_encoder import BiEncoder
from atlas_lm.retriever.contrastive import KeyQueue, follow_
from atlas_lm.retriever.contrastive_config import ContrastiveConfig
from atlas_lm.retriever.contrastive_data import Ids, Pair
from atlas_lm.retriever.contrastive_sampler import PairSampler
from atlas_lm.retriever.contrastive_shared import gather_with_gradient
from atlas_lm.retriever.embedding import CPU_BATCH_TOKENS, DEVICE_BATCH_TOKENS, encode
from atlas_lm.retriever.info_nce import info_nce
from atlas_lm.retriever.loading import position_limit
from atlas_lm.retriever.tokenization import batches_by_length
from atlas_lm.runtime import distributed
from atlas_lm.runtime.errors import InputError
from atlas_lm.types import Tokens


class ContrastiveLearner:
    """A `contrastive_fit.Learner` over a tied bi-encoder and a sampler of pairs.

    Args:
        retriever: What is trained; its settings say how token vectors are pooled and compared.
        sampler: The pairs of each step.
        cfg: Where negatives come from, the temperature, whether both directions count.
        batch_tokens: Padded tokens encoded at a time; 0 takes what suits the device.

    Raises:
        InputError: the retriever has two encoders, compares otherwise than ``cfg`` says, or reads
            fewer tokens than the pieces of ``cfg`` have.
    """

    def __init__(
        self,
        retriever: BiEncoder,
        sampler: PairSampler,
        cfg: ContrastiveConfig,
        *,
        batch_tokens: int = 0,
    ) -> None:
        if not retriever.tied:
            raise InputError("contrastive training from passages alone needs one tied encoder")
        if retriever.settings.similarity != cfg.similarity:
            raise InputError(
                f"contrastive.similarity={cfg.similarity!r}, but the encoder compares by "
                f"{retriever.settings.similarity!r}; set encoder.settings.similarity to the same"
            )
        self.retriever = retriever
        self.sampler = sampler
        self.cfg = cfg
        self.batch_tokens = batch_tokens
        self.frame = special_frame(retriever.query_tokenizer)
        _check_lengths(retriever, cfg, specials=len(self.frame[0]) + len(self.frame[1]))
        queued = cfg.negatives == "queue"
        self.slow = copy.deepcopy(retriever).requires_grad_(False) if queued else None
        self.queue = KeyQueue(cfg.queue_size, retriever.dim, retriever.device) if queued else None
        self._new_keys: Tensor | None = None
        self._ahead = ThreadPoolExecutor(1)
        self._coming: tuple[int, Future[list[Pair]]] | None = None

    @property
    def module(self) -> nn.Module:
        """The bi-encoder."""
        return self.retriever

    def loss(self, step: int) -> tuple[Tensor, Mapping[str, float]]:
        """Return this process's share of a step's InfoNCE; see `contrastive_fit.Learner`."""
        batch = self._pairs(step)
        query_emb = self._embed(self.retriever, [pair.query for pair in batch])
        keys = [pair.key for pair in batch]
        first = distributed.world().share(self.sampler.batch_size).start
        nce = partial(
            info_nce,
            own=torch.arange(first, first + len(batch), device=query_emb.device),
            temperature=self.cfg.temperature,
            count=self.sampler.batch_size,
        )
        if self.slow is not None and self.queue is not None:
            with torch.no_grad():
                key_emb = torch.cat(distributed.gather(self._embed(self.slow, keys)))
            every_key = torch.cat([key_emb, self.queue.keys])
            self._new_keys = key_emb
            return nce(query_emb, every_key)
        key_emb = self._embed(self.retriever, keys)
        loss, metrics = nce(query_emb, gather_with_gradient(key_emb))
        if not self.cfg.symmetric:
            return loss, metrics
        turned, _ = nce(key_emb, gather_with_gradient(query_emb))
        return (loss + turned) / 2, metrics

    def names(self, step: int) -> list[str]:
        """Return the ids of the passages of this process's share of a step."""
        return self.sampler.named(step, distributed.world().share(self.sampler.batch_size))

    def follow(self) -> None:
        """Move the momentum encoder a little toward the one that learns; queue the step's keys."""
        if self.slow is not None and self.queue is not None and self._new_keys is not None:
            self.queue.push(self._new_keys)
            follow_(self.slow, self.retriever, momentum=self.cfg.momentum)

    def tensors(self) -> Mapping[str, Mapping[str, Tensor]]:
        """Return the momentum encoder and the queue, where there are any."""
        if self.slow is None or self.queue is None:
            return {}
        return {"momentum": self.slow.state_dict(), "queue": self.queue.tensors()}

    def restore(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Take up what `tensors` returned."""
        if self.slow is not None and self.queue is not None:
            self.slow.load_state_dict(dict(tensors["momentum"]))
            self.queue.restore(tensors["queue"])

    def _pairs(self, step: int) -> list[Pair]:
        """Return the pairs of a step; those of the next are made meanwhile."""
        share = distributed.world().share(self.sampler.batch_size)
        coming, self._coming = self._coming, None
        pairs = (
            coming[1].result()
            if coming is not None and coming[0] == step
            else self.sampler.pairs(step, share)
        )
        self._coming = (step + 1, self._ahead.submit(self.sampler.pairs, step + 1, share))
        return pairs

    def _embed(self, model: BiEncoder, sequences: Sequence[Ids]) -> Float[Tensor, "n dim"]:
        """Return the embeddings of cut texts, special tokens put around them."""
        before, after, pad_id = self.frame
        framed = [[*before, *ids, *after] for ids in sequences]
        device = model.device
        budget = self.batch_tokens or (
            CPU_BATCH_TOKENS if device.type == "cpu" else DEVICE_BATCH_TOKENS
        )
        order, pieces = [], []
        for places in batches_by_length([len(ids) for ids in framed], budget):
            tokens = Tokens.padded([framed[place] for place in places], pad_id).to(device)
            pieces.append(encode(model.query_encoder, tokens, model.settings))
            order += places
        return torch.cat(pieces)[torch.tensor(order, device=device).argsort()]


def _check_lengths(retriever: BiEncoder, cfg: ContrastiveConfig, *, specials: int) -> None:
    limit = position_limit(retriever.query_encoder)
    for name in ("query_maxlength", "key_maxlength"):
        if limit is not None and getattr(cfg, name) + specials > limit:
            raise InputError(
                f"contrastive.{name}={getattr(cfg, name)} and {specials} special tokens are more "
                f"than the {limit} tokens the encoder reads; give at most {limit - specials}"
            )


def special_frame(tokenizer: PreTrainedTokenizerBase) -> tuple[Ids, Ids, int]:
    """Return the ids a tokenizer puts before and after a text, and its pad.

    Raises:
        InputError: it has no pad token.
    """
    if tokenizer.pad_token_id is None:
        raise InputError("the tokenizer has no pad token; choose an encoder's tokenizer")
    bare = tokenizer("a", add_special_tokens=False).input_ids
    framed = tokenizer("a").input_ids
    for start in range(len(framed) - len(bare) + 1):
        if framed[start : start + len(bare)] == bare:
            return framed[:start], framed[start + len(bare) :], int(tokenizer.pad_token_id)
    raise InputError("the tokenizer changes a text when it adds its special tokens")
