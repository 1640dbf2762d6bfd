"""A made-up world in which the right behaviour is known: every answer stands in one passage only.

A few hundred people with two-part names each have a home and a trade. A passage states one of the
two about one person; a question asks for it. Nothing but retrieval can answer, for names and facts
are drawn by seed and the questions asked in the test were never trained on. Models of two layers,
drawn at random, learn it within seconds on a CPU.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from atlas_lm.reader import ReaderSettings
from atlas_lm.reader.fid import FiDReader
from atlas_lm.retriever import BiEncoder, EncoderSettings
from atlas_lm.retriever.loading import Tower
from atlas_lm.runtime.files import atomic_directory

_SYLLABLES = ["ba", "do", "fi", "gu", "ka", "lo", "mi", "nu", "pa", "ri", "so", "tu", "ve", "zo"]


@dataclass(frozen=True, kw_only=True)
class TinyWorldConfig:
    """How large the world is."""

    people: int = 144
    """People; each has one passage for the home and one for the trade."""
    names: int = 24
    """First names, and as many last names."""
    values: int = 24
    """Places to live, and as many trades."""
    test_share: float = 0.25
    """Share of the questions that are never trained on."""
    seed: int = 0
    """Seed of names, facts, split and models."""


@dataclass(frozen=True)
class TinyWorld:
    """Rows as they stand in the files: passages, training questions, test questions."""

    passages: list[dict[str, Any]]
    train: list[dict[str, Any]]
    test: list[dict[str, Any]]
    words: list[str]


def make_tinyworld(config: TinyWorldConfig) -> TinyWorld:
    """Return the world of a seed."""
    draw = random.Random(config.seed)
    invented = _invented_words(draw, 2 * config.names + 2 * config.values)
    first, last = invented[: config.names], invented[config.names : 2 * config.names]
    homes, trades = (
        invented[2 * config.names : -config.values],
        invented[-config.values :],
    )
    everyone = [(a, b) for a in first for b in last]
    passages, questions = [], []
    for a, b in draw.sample(everyone, config.people):
        home, trade = draw.choice(homes), draw.choice(trades)
        for kind, statement, question, answer in (
            ("home", f"lives in {home} .", f"where does {a} {b} live ?", home),
            ("trade", f"works as {trade} .", f"what does {a} {b} work as ?", trade),
        ):
            name = f"{a}-{b}-{kind}"
            passages.append({"id": name, "title": f"{a} {b}", "text": statement})
            questions.append(
                {"id": name, "question": question, "answers": [answer], "gold_passage_ids": [name]}
            )
    draw.shuffle(questions)
    n_test = round(len(questions) * config.test_share)
    glue = "where does live ? what work as in lives works . question: answer: title: context:"
    return TinyWorld(passages, questions[n_test:], questions[:n_test], [*glue.split(), *invented])


def write_tinyworld(path: str | Path, config: TinyWorldConfig) -> TinyWorld:
    """Write ``passages.jsonl``, ``train.jsonl`` and ``test.jsonl``; the directory appears whole."""
    world = make_tinyworld(config)
    with atomic_directory(path) as directory:
        for name, rows in (
            ("passages", world.passages),
            ("train", world.train),
            ("test", world.test),
        ):
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (directory / f"{name}.jsonl").write_text(lines, "utf-8")
    return world


def tiny_reader(words: list[str], *, seed: int = 0, dim: int = 64, layers: int = 2) -> FiDReader:
    """Return a Fusion-in-Decoder T5 of a few layers with random weights over these words."""
    tokenizer = _tokenizer(words, prefix=[], suffix=[])
    torch.manual_seed(seed)
    model = T5ForConditionalGeneration(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=dim,
            d_kv=dim // 4,
            num_heads=4,
            d_ff=2 * dim,
            num_layers=layers,
            num_decoder_layers=layers,
            dropout_rate=0.0,
            decoder_start_token_id=tokenizer.pad_token_id,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    settings = ReaderSettings(text_maxlength=32, target_maxlength=4)
    return FiDReader(model, tokenizer, settings)


def tiny_retriever(words: list[str], *, seed: int = 0, dim: int = 64, layers: int = 1) -> BiEncoder:
    """Return a bi-encoder of one layer with random weights over these words."""
    tokenizer = _tokenizer(words, prefix=["[CLS]"], suffix=["[SEP]"])
    torch.manual_seed(seed)
    encoder = BertModel(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=dim,
            num_hidden_layers=layers,
            num_attention_heads=4,
            intermediate_size=2 * dim,
            max_position_embeddings=40,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            pad_token_id=tokenizer.pad_token_id,
        ),
        add_pooling_layer=False,
    )
    settings = EncoderSettings(
        pooling="mean", similarity="dot", query_maxlength=32, passage_maxlength=32
    )
    return BiEncoder(Tower(encoder, tokenizer), settings)


def _tokenizer(words: list[str], *, prefix: list[str], suffix: list[str]) -> Any:
    special = ["<pad>", "</s>", "<unk>", *prefix, *suffix, "<extra_id_0>"]
    vocabulary = {word: n for n, word in enumerate([*special, *dict.fromkeys(words)])}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = WhitespaceSplit()
    if prefix:
        backend.post_processor = TemplateProcessing(
            single=[*prefix, "$A", *suffix],
            special_tokens=[(token, vocabulary[token]) for token in (*prefix, *suffix)],
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<extra_id_0>"],
    )


def _invented_words(draw: random.Random, count: int) -> list[str]:
    words = [a + b + c for a in _SYLLABLES for b in _SYLLABLES for c in _SYLLABLES]
    return draw.sample(words, count)
