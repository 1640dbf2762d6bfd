"""Tiny encoder-decoders with random weights, and readers over them."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import torch
import transformers
from packaging.version import Version
from torch import nn
from transformers import (
    MT5Config,
    MT5ForConditionalGeneration,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    T5GemmaConfig,
    T5GemmaForConditionalGeneration,
    T5GemmaModuleConfig,
    UMT5Config,
    UMT5ForConditionalGeneration,
)

from atlas_lm.reader.fid import FiDReader
from atlas_lm.reader.inputs import FiDInputs
from atlas_lm.reader.settings import ReaderSettings
from atlas_lm.types import Passage, Tokens
from tests.parity.golden import t5_tokenizer

SHAPE = {
    "vocab_size": 1120,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "dropout_rate": 0.0,
    "decoder_start_token_id": 0,
}
KINDS = ("t5", "t5_v11", "mt5", "umt5", "t5gemma")
if Version(transformers.__version__) < Version("5.23"):
    KINDS = tuple(kind for kind in KINDS if kind != "umt5")
    """Older releases run UMT5's decoder without a causal mask under SDPA."""

QUERIES = ["question: who built the mill? answer:", "question: where is the cat? answer:"]
TARGETS = ["<extra_id_0> the river", "<extra_id_0> in the old barn near the bridge"]
PASSAGES = [
    [
        Passage("a", "The mill was built by masons from the river.", "Mill"),
        Passage("b", "A cat sleeps in the barn, every afternoon and every night.", "Cat", "Habits"),
        Passage("c", "Stone."),
    ],
    [
        Passage("d", "The bridge is old.", "Bridge"),
        Passage("e", "In the winter the water is cold, and nobody crosses it.", "River"),
        Passage("b", "A cat sleeps in the barn, every afternoon and every night.", "Cat", "Habits"),
    ],
]


@functools.cache
def tokenizer() -> PreTrainedTokenizerFast:
    return t5_tokenizer()


def tiny_model(kind: str = "t5_v11", *, seed: int = 0) -> Any:
    """A two-layer model whose logits are spread enough for greedy and beam search to be stable."""
    torch.manual_seed(seed)
    if kind == "mt5":
        model = MT5ForConditionalGeneration(MT5Config(**SHAPE))
    elif kind == "umt5":
        model = UMT5ForConditionalGeneration(UMT5Config(**SHAPE))
    elif kind == "t5gemma":
        model = _tiny_gemma()
    elif kind == "t5_v11":
        config = T5Config(**SHAPE, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
        model = T5ForConditionalGeneration(config)
    else:
        model = T5ForConditionalGeneration(T5Config(**SHAPE))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3) if parameter.dim() > 1 else None
    if kind == "t5_v11":
        model.lm_head.weight = nn.Parameter(torch.randn_like(model.shared.weight) * 0.3)
    return model.eval()


def _tiny_gemma() -> Any:
    """Grouped queries, capped scores, sliding windows, a start token that is no pad."""
    part = T5GemmaModuleConfig(
        vocab_size=1120,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=64,
        attn_logit_softcapping=5.0,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    config = T5GemmaConfig(
        encoder=part,
        decoder=copy.deepcopy(part),
        dropout_rate=0.0,
        vocab_size=1120,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
        decoder_start_token_id=2,
    )
    return T5GemmaForConditionalGeneration(config)


def tiny_reader(kind: str = "t5_v11", **settings: Any) -> FiDReader:
    return FiDReader(tiny_model(kind), tokenizer(), ReaderSettings(**settings))


def saved(path: Path, kind: str = "t5_v11") -> Path:
    """A plain transformers directory, as it would come from elsewhere."""
    tiny_model(kind).save_pretrained(path)
    tokenizer().save_pretrained(path)
    return path


def batch(reader: FiDReader) -> tuple[FiDInputs, Tokens]:
    return reader.collate(QUERIES, PASSAGES), reader.target_tokens(TARGETS)
