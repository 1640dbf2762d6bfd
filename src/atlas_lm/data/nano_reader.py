"""A Fusion-in-Decoder T5 of a few million parameters, drawn at random, with its own vocabulary."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from tokenizers import Regex, Tokenizer
from tokenizers.decoders import Metaspace as MetaspaceDecoder
from tokenizers.models import BPE
from tokenizers.normalizers import NFC, Lowercase, Replace
from tokenizers.normalizers import Sequence as Normalizers
from tokenizers.pre_tokenizers import Digits, Metaspace, Punctuation
from tokenizers.pre_tokenizers import Sequence as PreTokenizers
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from atlas_lm.reader import ReaderSettings
from atlas_lm.reader.fid import FiDReader
from atlas_lm.runtime.errors import InputError

GAP, TITLE, TEXT = (f"<extra_id_{n}>" for n in range(3))
"""The gap in a query with a gap, and what stands before title and text in the reader's input."""

_COPYING, _SELF_ATTENTION, _FEED_FORWARD = 10.0, 0.3, 0.2
"""Mimetic start: strength of copying, and what other layers' outputs are multiplied by."""

_SPECIAL = ("<pad>", "</s>", "<unk>", *(f"<extra_id_{n}>" for n in range(10)))


@dataclass(frozen=True, kw_only=True)
class NanoReaderConfig:
    """The shape of the reader."""

    vocab_size: int = 8192
    """Pieces learned from the passages (fewer when the text is small)."""
    dim: int = 128
    """Width of the model."""
    heads: int = 8
    """Attention heads; divides `dim`."""
    intermediate: int = 512
    """Width of the feed-forward layers."""
    layers: int = 3
    """Encoder layers."""
    decoder_layers: int = 2
    """Decoder layers."""
    text_maxlength: int = 96
    """Longest input in tokens: question and one passage."""
    target_maxlength: int = 16
    """Longest answer in tokens."""
    init: Literal["mimetic", "random"] = "mimetic"
    """Attention that begins by matching like with like and copying what it finds, or by chance."""
    seed: int = 0
    """Seed of the initial weights."""

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise InputError(f"reader.heads={self.heads} does not divide reader.dim={self.dim}")
        if self.vocab_size < 300:
            raise InputError(f"reader.vocab_size={self.vocab_size}: give at least 300")


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Return a lower-casing byte-pair tokenizer learned from ``texts``, with T5's special tokens.

    Punctuation and groups of digits are pieces of their own, so a name is written alike wherever
    it stands. The same texts give the same pieces.
    """
    backend = Tokenizer(BPE(unk_token="<unk>"))
    backend.normalizer = Normalizers([NFC(), Lowercase(), Replace(Regex(r"\s+"), " ")])
    backend.pre_tokenizer = PreTokenizers(
        [Metaspace(), Punctuation("isolated"), Digits(individual_digits=False)]
    )
    backend.decoder = MetaspaceDecoder()
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(_SPECIAL),
        limit_alphabet=200,
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=[token for token in _SPECIAL if token.startswith("<extra")],
    )


def new_reader(texts: Iterable[str], config: NanoReaderConfig) -> FiDReader:
    """Return a reader with random weights whose vocabulary was learned from ``texts``."""
    tokenizer = train_tokenizer(texts, config.vocab_size)
    shape = T5Config(
        vocab_size=len(tokenizer),
        d_model=config.dim,
        d_kv=config.dim // config.heads,
        num_heads=config.heads,
        d_ff=config.intermediate,
        num_layers=config.layers,
        num_decoder_layers=config.decoder_layers,
        dropout_rate=0.0,
        decoder_start_token_id=tokenizer.pad_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    settings = ReaderSettings(
        encoder_format=f"{{query}}{TITLE}{{title}}{TEXT}{{text}}",
        encoder_format_untitled=f"{{query}}{TEXT}{{text}}",
        text_maxlength=config.text_maxlength,
        target_maxlength=config.target_maxlength,
    )
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(config.seed)
        model = T5ForConditionalGeneration(shape)
        if config.init == "mimetic":
            set_mimetic_(model)
    return FiDReader(model, tokenizer, settings)


@torch.no_grad()
def set_mimetic_(model: T5ForConditionalGeneration) -> None:
    """Let attention begin near what look-ups need (after Trockman and Kolter 2023).

    Queries equal keys, so that like tokens attend to each other; in cross-attention, values times
    output is `_COPYING` times the identity, so that what is attended to is what is written, loud
    enough to be heard above the start token; what the other layers add is scaled down.
    """
    encoder = [block.layer[0].SelfAttention for block in model.encoder.block]
    crossing = [block.layer[1].EncDecAttention for block in model.decoder.block]
    for attention in (*encoder, *crossing):
        attention.q.weight.copy_(attention.k.weight * attention.key_value_proj_dim**-0.5)
    for attention in crossing:
        torch.nn.init.orthogonal_(attention.v.weight)
        attention.o.weight.copy_(_COPYING * attention.v.weight.T)
    for block in (*model.encoder.block, *model.decoder.block):
        block.layer[0].SelfAttention.o.weight.mul_(_SELF_ATTENTION)
        block.layer[-1].DenseReluDense.wo.weight.mul_(_FEED_FORWARD)


def whole_words(tokenizer: PreTrainedTokenizerFast, *, letters: int = 4) -> list[str]:
    """Return, sorted, the words of at least so many letters that are one piece."""
    words = (piece[1:] for piece in tokenizer.get_vocab() if piece.startswith("▁"))
    return sorted(word for word in words if len(word) >= letters and word.isalpha())
