"""An encoder from scratch and without labels, after Contriever (Izacard et al. 2021).

Passages give pairs (`contrastive_data`), a mean-pooled BERT embeds both members, and InfoNCE asks
each first member to find its second among the others':

    L_i = -log exp(s(q_i, k_i)/τ) / Σ_j exp(s(q_i, k_j)/τ)

with negatives k_j from the batch and, where asked for, from a queue filled by a momentum encoder
(MoCo). `run_recipe` goes from passages to a directory that opens with plain transformers.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertModel, PreTrainedTokenizerFast

from atlas_lm.retriever.bi_encoder import BiEncoder
from atlas_lm.retriever.contrastive_config import ContrastiveConfig
from atlas_lm.retriever.contrastive_data import (
    CLS,
    MASK,
    PAD,
    SEP,
    UNK,
    Ids,
    Pair,
    batches,
    pad,
    tokenize,
    train_wordpiece,
)
from atlas_lm.retriever.contrastive_fit import decay_groups
from atlas_lm.retriever.contrastive_init import lsa_word_vectors, new_encoder, set_word_embeddings_
from atlas_lm.retriever.info_nce import info_nce
from atlas_lm.retriever.loading import Tower
from atlas_lm.retriever.pooling import mean_pool
from atlas_lm.retriever.settings import EncoderSettings
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.logs import notice, progress_bar
from atlas_lm.types import Passage


class KeyQueue:
    """The most recent keys of the momentum encoder, oldest out first (MoCo)."""

    def __init__(self, size: int, dim: int, device: torch.device | str = "cpu") -> None:
        self._keys = torch.zeros(size, dim, device=device)
        self._next = 0
        self._count = 0

    @property
    def keys(self) -> Float[Tensor, "n_keys dim"]:
        """The keys held so far; their order has no meaning."""
        return self._keys[: self._count]

    def push(self, key_emb: Float[Tensor, "bsz dim"]) -> None:
        """Add keys; where the queue is full, the oldest give way."""
        size = len(self._keys)
        key_emb = key_emb.detach()[-size:]
        slots = (self._next + torch.arange(len(key_emb))) % size
        self._keys[slots] = key_emb
        self._next = (self._next + len(key_emb)) % size
        self._count = min(size, self._count + len(key_emb))

    def tensors(self) -> dict[str, Tensor]:
        """Return the keys and how they are kept, for a checkpoint."""
        return {"keys": self._keys, "places": torch.tensor([self._next, self._count])}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Become the queue that `tensors` was taken from.

        Raises:
            InputError: it was of another size.
        """
        if tensors["keys"].shape != self._keys.shape:
            raise InputError(
                f"resume: the queue was {list(tensors['keys'].shape)} and is "
                f"{list(self._keys.shape)}; resume with the same queue_size"
            )
        self._keys.copy_(tensors["keys"])
        self._next, self._count = map(int, tensors["places"])


@torch.no_grad()
def follow_(follower: nn.Module, leader: nn.Module, *, momentum: float) -> None:
    """Move every parameter of ``follower`` to momentum·follower + (1 - momentum)·leader."""
    for slow, fast in zip(follower.parameters(), leader.parameters(), strict=True):
        slow.lerp_(fast, 1 - momentum)


def embed(
    encoder: nn.Module, sequences: Sequence[Ids], *, similarity: str, pieces: int = 4
) -> Float[Tensor, "bsz dim"]:
    """Return the pooled embedding of each sequence, in the order given.

    Sequences of like length are encoded together, so little is spent on padding.
    """
    order = sorted(range(len(sequences)), key=lambda row: len(sequences[row]))
    size = math.ceil(len(order) / pieces)
    pooled = []
    for start in range(0, len(order), size):
        tokens = pad([sequences[row] for row in order[start : start + size]])
        hidden = encoder(input_ids=tokens.ids, attention_mask=tokens.mask).last_hidden_state
        pooled.append(mean_pool(hidden, tokens.mask))
    embeddings = torch.cat(pooled)[torch.tensor(order).argsort()]
    return F.normalize(embeddings, dim=-1) if similarity == "cosine" else embeddings


def contrastive_loss(
    encoder: nn.Module,
    batch: Sequence[Pair],
    cfg: ContrastiveConfig,
    *,
    momentum_encoder: nn.Module | None = None,
    queue: KeyQueue | None = None,
) -> Float[Tensor, ""]:
    """Return InfoNCE over a batch, averaged over its pairs.

    With a momentum encoder and a queue, keys carry no gradient, the queue's keys are further
    negatives, and this batch's keys are in the queue afterwards.
    """
    query_emb = embed(encoder, [pair.query for pair in batch], similarity=cfg.similarity)
    keys = [pair.key for pair in batch]
    nce = partial(
        info_nce, own=torch.arange(len(batch)), temperature=cfg.temperature, count=len(batch)
    )
    if momentum_encoder is not None and queue is not None:
        with torch.no_grad():
            key_emb = embed(momentum_encoder, keys, similarity=cfg.similarity)
        every_key = torch.cat([key_emb, queue.keys])
        queue.push(key_emb)
        return nce(query_emb, every_key)[0]
    key_emb = embed(encoder, keys, similarity=cfg.similarity)
    loss, _ = nce(query_emb, key_emb)
    if not cfg.symmetric:
        return loss
    return (loss + nce(key_emb, query_emb)[0]) / 2


def learning_rate_at(step: int, cfg: ContrastiveConfig) -> float:
    """Return the rate of update ``step`` of a stage: a linear rise, then a linear fall to 0."""
    rise = max(1, round(cfg.warmup * cfg.steps))
    if step < rise:
        return cfg.learning_rate * (step + 1) / rise
    return cfg.learning_rate * (cfg.steps - step) / max(1, cfg.steps - rise)


def train(
    passages: Sequence[Passage], cfg: ContrastiveConfig
) -> tuple[BertModel, PreTrainedTokenizerFast]:
    """Return an encoder, in eval mode, and its tokenizer, both made from ``passages`` alone.

    The same passages, configuration, machine and thread count give the same weights. torch's own
    random state is as before.

    Raises:
        InputError: fewer than two passages, or one without text.
    """
    check_passages(passages)
    tokenizer = train_wordpiece(
        (text for passage in passages for text in (passage.heading, passage.text)), cfg.vocab_size
    )
    pieces = tokenize(tokenizer, passages)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.seed)
        encoder = new_encoder(cfg, tokenizer.get_vocab_size())
        if cfg.embedding_init == "lsa":
            whole = [passage.title + passage.text for passage in pieces]
            vectors = lsa_word_vectors(whole, tokenizer.get_vocab_size(), cfg.dim, seed=cfg.seed)
            set_word_embeddings_(encoder, vectors)
        data = batches(pieces, cfg, np.random.default_rng(cfg.seed))
        fit_embeddings(encoder, data, cfg)
        fit(encoder, data, cfg, name="encoder")
    return encoder.eval(), as_transformers(tokenizer, cfg)


def run_recipe(cfg: ContrastiveConfig, passages: Iterable[Passage], out: str | Path) -> BiEncoder:
    """Train on ``passages``, write the tied bi-encoder to ``out`` and return it.

    ``out`` appears whole or not at all; `BiEncoder.from_pretrained` and plain transformers open it.

    Raises:
        InputError: the passages cannot be contrasted, or ``out`` holds something else.
    """
    passages = list(passages)
    notice(f"contrastive: {len(passages)} passages, no labels, to {out}")
    encoder, tokenizer = train(passages, cfg)
    if cfg.half_precision:
        encoder.half()
    retriever = as_bi_encoder(encoder, tokenizer, cfg)
    retriever.save_pretrained(out)
    return retriever


def check_passages(passages: Sequence[Passage]) -> None:
    """Raise unless there is something to contrast.

    Raises:
        InputError: fewer than two passages, or one without text.
    """
    if len(passages) < 2:
        raise InputError(f"contrastive: {len(passages)} passages; at least 2 are needed")
    for row, passage in enumerate(passages):
        if not passage.text.strip():
            raise InputError(f"contrastive: passage {passage.id!r} (row {row}) has no text")


def fit_embeddings(encoder: BertModel, data: Iterator[list[Pair]], cfg: ContrastiveConfig) -> None:
    """Train the embeddings of ``encoder`` in place as a bag of words for ``embedding_steps``.

    A step without layers costs a fraction of one with them, and most of what a small encoder
    knows about words is in its embeddings.
    """
    if cfg.embedding_steps == 0:
        return
    bag = new_encoder(replace(cfg, layers=0), encoder.config.vocab_size)
    bag.embeddings = encoder.embeddings
    fit(bag, data, replace(cfg, steps=cfg.embedding_steps), name="embeddings")


def fit(
    encoder: BertModel, data: Iterator[list[Pair]], cfg: ContrastiveConfig, *, name: str
) -> list[float]:
    """Train ``encoder`` in place for ``cfg.steps`` updates and return the loss of each."""
    groups = decay_groups(encoder.named_parameters(), cfg.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=cfg.learning_rate)
    queued = cfg.negatives == "queue"
    momentum_encoder = copy.deepcopy(encoder).requires_grad_(False) if queued else None
    queue = KeyQueue(cfg.queue_size, cfg.dim) if queued else None
    encoder.train()
    losses = []
    with progress_bar() as progress:
        task = progress.add_task(name, total=cfg.steps)
        for step in range(cfg.steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate_at(step, cfg)
            loss = contrastive_loss(
                encoder, next(data), cfg, momentum_encoder=momentum_encoder, queue=queue
            )
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(encoder.parameters(), cfg.grad_clip)
            optimizer.step()
            if momentum_encoder is not None:
                follow_(momentum_encoder, encoder, momentum=cfg.momentum)
            losses.append(loss.item())
            progress.update(task, advance=1, description=f"{name}: loss {losses[-1]:.3f}")
    return losses


def as_bi_encoder(
    encoder: BertModel, tokenizer: PreTrainedTokenizerFast, cfg: ContrastiveConfig
) -> BiEncoder:
    """Return the tied bi-encoder that ``cfg`` describes; queries are read up to 64 tokens."""
    settings = EncoderSettings(
        pooling="mean",
        similarity=cfg.similarity,
        query_maxlength=min(64, cfg.maxlength),
        passage_maxlength=cfg.maxlength,
    )
    return BiEncoder(Tower(encoder, tokenizer), settings)


def as_transformers(tokenizer: Tokenizer, cfg: ContrastiveConfig) -> PreTrainedTokenizerFast:
    """Return the tokenizer as transformers know it, with BERT's special tokens."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNK,
        cls_token=CLS,
        sep_token=SEP,
        mask_token=MASK,
        model_max_length=cfg.maxlength,
    )
