"""Weights before the first update: layers near the identity, words where co-occurrence puts them.

The word vectors are the latent semantic analysis of the passages, which needs no label either.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import BertConfig, BertModel

from atlas_lm.retriever.contrastive_config import ContrastiveConfig


def lsa_word_vectors(
    passages: Sequence[Sequence[int]], vocab_size: int, dim: int, *, seed: int
) -> Float[Tensor, "vocab dim"]:
    """Return U·√S of the truncated SVD of the (token, passage) matrix log(1+tf)·idf.

    Rows of tokens that occur nowhere are 0. idf is log(passages / passages with the token).
    Rows keep their lengths, so a frequent token with little to say is short.
    """
    counts = [Counter(ids) for ids in passages]
    tokens = torch.tensor([token for count in counts for token in count])
    columns = torch.tensor([column for column, count in enumerate(counts) for _ in count])
    frequency = torch.tensor([float(n) for count in counts for n in count.values()])
    occurs_in = torch.bincount(tokens, minlength=vocab_size)
    idf = torch.log(len(passages) / occurs_in.clamp(min=1))
    weights = torch.log1p(frequency) * idf[tokens]
    matrix = torch.sparse_coo_tensor(
        torch.stack([tokens, columns]),
        weights,
        (vocab_size, len(passages)),
        check_invariants=False,
    ).coalesce()
    rank = min(dim, vocab_size, len(passages))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        left, singular, _ = torch.svd_lowrank(matrix, q=rank, niter=4)
    vectors = torch.zeros(vocab_size, dim)
    vectors[:, :rank] = left * singular.sqrt()
    return vectors


def new_encoder(cfg: ContrastiveConfig, vocab_size: int) -> BertModel:
    """Return a stock BERT encoder with random weights, drawn from torch's current seed."""
    encoder = BertModel(
        BertConfig(
            vocab_size=vocab_size,
            hidden_size=cfg.dim,
            num_hidden_layers=cfg.layers,
            num_attention_heads=cfg.heads,
            intermediate_size=cfg.intermediate,
            max_position_embeddings=cfg.positions,
            hidden_dropout_prob=cfg.dropout,
            attention_probs_dropout_prob=cfg.dropout,
        ),
        add_pooling_layer=False,
    )
    with torch.no_grad():
        for layer in encoder.encoder.layer:
            layer.attention.output.dense.weight.mul_(cfg.residual_scale)
            layer.output.dense.weight.mul_(cfg.residual_scale)
    return encoder


@torch.no_grad()
def set_word_embeddings_(encoder: BertModel, vectors: Float[Tensor, "vocab dim"]) -> None:
    """Add ``vectors`` to the word embeddings, scaled so that their median length is the noise's."""
    table = encoder.get_input_embeddings().weight
    noise = table.norm(dim=-1).median()
    lengths = vectors.norm(dim=-1)
    table.mul_(0.1).add_(vectors * (noise / lengths[lengths > 0].median()))
