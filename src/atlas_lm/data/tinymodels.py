"""Both halves in miniature, drawn at random over a given list of words."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from atlas_lm.reader import ReaderSettings
from atlas_lm.reader.fid import FiDReader
from atlas_lm.retriever import BiEncoder, EncoderSettings
from atlas_lm.retriever.loading import Tower

_MAXLENGTH = 16


def tiny_reader(
    words: Sequence[str], *, seed: int = 0, dim: int = 64, layers: int = 2, heads: int = 8
) -> FiDReader:
    """Return a Fusion-in-Decoder T5 of a few layers with random weights over these words.

    It reads the query, the title and the text with no words between them.
    """
    tokenizer = _tokenizer(words, prefix=(), suffix=())
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=dim,
        d_kv=dim // heads,
        num_heads=heads,
        d_ff=2 * dim,
        num_layers=layers,
        num_decoder_layers=layers,
        dropout_rate=0.0,
        decoder_start_token_id=tokenizer.pad_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    settings = ReaderSettings(
        encoder_format="{query} {title} {text}",
        encoder_format_untitled="{query} {text}",
        text_maxlength=_MAXLENGTH,
        target_maxlength=4,
        encoder_chunks=1,
    )
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model = T5ForConditionalGeneration(config)
    return FiDReader(model, tokenizer, settings)


def tiny_retriever(
    words: Sequence[str],
    *,
    seed: int = 0,
    dim: int = 64,
    layers: int = 1,
    heads: int = 4,
    tied: bool = True,
) -> BiEncoder:
    """Return a bi-encoder of one layer with random weights over these words.

    Tied, it is a little better than chance as drawn, for a word that a query and a passage share
    has one vector. Untied, its two encoders are drawn apart and what it finds is chance.
    """
    tokenizer = _tokenizer(words, prefix=("[CLS]",), suffix=("[SEP]",))
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=dim,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=2 * dim,
        max_position_embeddings=_MAXLENGTH,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.1,
        pad_token_id=tokenizer.pad_token_id,
    )
    settings = EncoderSettings(
        pooling="mean",
        similarity="dot",
        query_maxlength=_MAXLENGTH,
        passage_maxlength=_MAXLENGTH,
    )
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        towers = [
            Tower(BertModel(config, add_pooling_layer=False), tokenizer)
            for _ in range(1 if tied else 2)
        ]
    return BiEncoder(towers[0], settings, *towers[1:])


def _tokenizer(
    words: Sequence[str], *, prefix: Sequence[str], suffix: Sequence[str]
) -> PreTrainedTokenizerBase:
    special = ["<pad>", "</s>", "<unk>", *prefix, *suffix]
    vocabulary = {word: n for n, word in enumerate([*special, *dict.fromkeys(words)])}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = WhitespaceSplit()
    if prefix or suffix:
        backend.post_processor = TemplateProcessing(
            single=[*prefix, "$A", *suffix],
            special_tokens=[(token, vocabulary[token]) for token in (*prefix, *suffix)],
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
