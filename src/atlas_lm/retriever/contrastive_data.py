"""Passages to pairs that belong together, by cutting alone.

Three kinds of pair, none of which needs a label: two independent crops of one passage (Contriever,
section 3.2 there), a short span and the passage around it (the inverse cloze task), a title and the
text under it. Tokens are deleted at random so that a pair cannot be matched by copying alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer
from tokenizers.decoders import WordPiece as WordPieceDecoder
from tokenizers.models import BPE, WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer, WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer

from atlas_lm.retriever.contrastive_config import ContrastiveConfig
from atlas_lm.types import Passage, Tokens

PAD, UNK, CLS, SEP, MASK = SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PAD_ID, UNK_ID, CLS_ID, SEP_ID, MASK_ID = range(len(SPECIALS))

Ids = list[int]


@dataclass(frozen=True)
class PassageTokens:
    """One passage as WordPieces, without special tokens."""

    title: Ids
    text: Ids


@dataclass(frozen=True)
class Pair:
    """Two pieces of one passage: the first shall find the second."""

    query: Ids
    key: Ids


def train_wordpiece(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Return a lower-casing BERT tokenizer whose pieces were learned from ``texts``.

    The same texts give the same pieces with the same ids.
    """
    tokenizer = Tokenizer(WordPiece(unk_token=UNK))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.decoder = WordPieceDecoder()
    pieces = [*SPECIALS, *_learn_pieces(_words(tokenizer, texts), vocab_size - len(SPECIALS))]
    vocab = {piece: token for token, piece in enumerate(pieces)}
    tokenizer.model = WordPiece(vocab, unk_token=UNK)
    tokenizer.add_special_tokens(list(SPECIALS))
    tokenizer.post_processor = TemplateProcessing(
        single=f"{CLS} $A {SEP}", special_tokens=[(CLS, CLS_ID), (SEP, SEP_ID)]
    )
    return tokenizer


def _words(tokenizer: Tokenizer, texts: Iterable[str]) -> list[list[str]]:
    return [
        [
            word
            for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(
                tokenizer.normalizer.normalize_str(text)
            )
        ]
        for text in texts
    ]


def _learn_pieces(texts: Sequence[Sequence[str]], count: int) -> list[str]:
    """Return the pieces of byte-pair merges; those inside a word begin with ``##``.

    The library's own WordPiece trainer numbers its ``##`` letters in an order that changes from
    run to run, and equally frequent merges follow it. Here a letter inside a word is another
    letter altogether, from a private plane of Unicode, and plain byte-pair merges are repeatable.
    """
    letters = sorted({letter for text in texts for word in text for letter in word})
    inner = {letter: chr(0xF0000 + rank) for rank, letter in enumerate(letters)}
    outer = {mark: letter for letter, mark in inner.items()}
    learner = Tokenizer(BPE())
    learner.pre_tokenizer = WhitespaceSplit()
    marked = (
        " ".join(word[0] + "".join(inner[letter] for letter in word[1:]) for word in text)
        for text in texts
    )
    learner.train_from_iterator(marked, BpeTrainer(vocab_size=count, show_progress=False))
    pieces = sorted(learner.get_vocab().items(), key=lambda item: item[1])
    return [
        ("##" if piece[0] in outer else "") + "".join(outer.get(letter, letter) for letter in piece)
        for piece, _ in pieces
    ]


def tokenize(tokenizer: Tokenizer, passages: Sequence[Passage]) -> list[PassageTokens]:
    """Return every passage's heading and text as ids, in order."""
    titles = tokenizer.encode_batch([p.heading for p in passages], add_special_tokens=False)
    texts = tokenizer.encode_batch([p.text for p in passages], add_special_tokens=False)
    return [PassageTokens(a.ids, b.ids) for a, b in zip(titles, texts, strict=True)]


def crop(ids: Ids, rng: np.random.Generator, low: float, high: float) -> Ids:
    """Return a contiguous piece whose length is uniform between two parts of the whole, at least 1.

    Every start at which the piece fits is equally likely.
    """
    return window(ids, rng, max(1, round(len(ids) * rng.uniform(low, high))))


def window(ids: Ids, rng: np.random.Generator, length: int) -> Ids:
    """Return a random contiguous piece of ``length`` tokens, or all of a shorter sequence."""
    start = int(rng.integers(0, max(0, len(ids) - length) + 1))
    return ids[start : start + length]


def delete(ids: Ids, rng: np.random.Generator, probability: float) -> Ids:
    """Return ``ids`` with each token deleted with ``probability``; at least one token stays."""
    stays = rng.random(len(ids)) >= probability
    kept = [token for token, stay in zip(ids, stays, strict=True) if stay]
    return kept or ids[:1]


def crop_pair(passage: PassageTokens, cfg: ContrastiveConfig, rng: np.random.Generator) -> Pair:
    """Return two independent crops of title and text, each with tokens deleted."""
    whole = passage.title + passage.text
    first, second = (
        delete(crop(whole, rng, cfg.crop_min, cfg.crop_max), rng, cfg.deletion) for _ in range(2)
    )
    return Pair(window(first, rng, cfg.query_maxlength), window(second, rng, cfg.key_maxlength))


def span_pair(passage: PassageTokens, cfg: ContrastiveConfig, rng: np.random.Generator) -> Pair:
    """Return a short span of the text and the passage around it, the span cut out or kept."""
    length = int(rng.integers(cfg.span_min, cfg.span_max + 1))
    start = int(rng.integers(0, max(0, len(passage.text) - length) + 1))
    span = passage.text[start : start + length]
    before, after = passage.text[:start], passage.text[start + length :]
    around = before + (span if rng.random() < cfg.span_kept else []) + after
    key = window(passage.title + around, rng, cfg.key_maxlength)
    return Pair(
        delete(span, rng, cfg.deletion), key or window(passage.text, rng, cfg.key_maxlength)
    )


def title_pair(passage: PassageTokens, cfg: ContrastiveConfig, rng: np.random.Generator) -> Pair:
    """Return the title and the text without the title's tokens."""
    title = set(passage.title)
    rest = [token for token in passage.text if token not in title]
    key = window(rest, rng, cfg.key_maxlength)
    return Pair(
        window(passage.title, rng, cfg.query_maxlength),
        key or window(passage.text, rng, cfg.key_maxlength),
    )


def make_pair(passage: PassageTokens, cfg: ContrastiveConfig, rng: np.random.Generator) -> Pair:
    """Return one pair of a kind drawn by the configured shares; without a title, no title pair."""
    draw = rng.random()
    if draw < cfg.title_share:
        return title_pair(passage, cfg, rng) if passage.title else crop_pair(passage, cfg, rng)
    if draw < cfg.title_share + cfg.span_share:
        return span_pair(passage, cfg, rng)
    return crop_pair(passage, cfg, rng)


def batches(
    passages: Sequence[PassageTokens], cfg: ContrastiveConfig, rng: np.random.Generator
) -> Iterator[list[Pair]]:
    """Yield batches for ever; no passage comes twice in one, so a negative is another passage."""
    bsz = min(cfg.batch_size, len(passages))
    while True:
        order = rng.permutation(len(passages))
        for start in range(0, len(order) - bsz + 1, bsz):
            yield [make_pair(passages[row], cfg, rng) for row in order[start : start + bsz]]


def pad(sequences: Sequence[Ids]) -> Tokens:
    """Return ``[CLS] ids [SEP]`` of every sequence, padded on the right to the longest."""
    return Tokens.padded([[CLS_ID, *ids, SEP_ID] for ids in sequences], PAD_ID)
