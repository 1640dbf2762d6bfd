"""Queries and passages as the tokens of a Fusion-in-Decoder reader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from atlas_lm.reader.legible import warn_of_cut_passages, without_end
from atlas_lm.reader.settings import ReaderSettings
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.logs import warn_once
from atlas_lm.types import Passage, Tokens


@dataclass(frozen=True)
class FiDInputs:
    """One row of tokens for each passage; in closed book one row for the query alone."""

    tokens: Tokens
    """``[bsz n_rows length]``"""
    n_context: int
    """Passages per query; 0 in closed book, where ``n_rows`` is 1."""

    @classmethod
    def from_tokens(cls, tokens: Tokens) -> FiDInputs:
        """Wrap token rows ``[bsz n_context length]`` made elsewhere.

        Raises:
            InputError: the shape is wrong, a row is empty, or its pads are not on the right.
        """
        if tokens.ids.dim() != 3 or tokens.ids.shape != tokens.mask.shape:
            raise InputError(
                f"reader tokens of shape {list(tokens.ids.shape)} with mask "
                f"{list(tokens.mask.shape)}: expected [bsz n_context length] twice"
            )
        mask = tokens.mask.bool()
        if not bool(mask[..., 0].all()) or bool((mask[..., 1:] & ~mask[..., :-1]).any()):
            raise InputError("reader tokens: every row needs a token, and its pads on the right")
        return cls(Tokens(tokens.ids, mask), tokens.ids.shape[1])

    def first(self, n_context: int) -> FiDInputs:
        """Keep the best ``n_context`` passages of every query; closed book stays as it is."""
        if self.n_context == 0 or n_context >= self.n_context:
            return self
        if n_context < 1:
            raise InputError(f"n_context={n_context}: keep at least 1 passage, or ask closed book")
        kept = Tokens(self.tokens.ids[:, :n_context], self.tokens.mask[:, :n_context])
        return FiDInputs(kept, n_context)


def collate(
    tokenizer: Any,
    settings: ReaderSettings,
    query: Sequence[str],
    passages: Sequence[Sequence[Passage]],
) -> FiDInputs:
    """Word and tokenize queries with their passages; without passages, the queries alone.

    Raises:
        InputError: the lists differ in length, or queries differ in their number of passages.
    """
    if len(query) != len(passages) or not query:
        raise InputError(f"{len(query)} queries with {len(passages)} lists of passages")
    counts = {len(row) for row in passages}
    if len(counts) > 1:
        raise InputError(
            f"queries of one batch have {min(counts)} to {max(counts)} passages; "
            "give every query the same number"
        )
    n_context = counts.pop()
    texts = [
        text
        for question, row in zip(query, passages, strict=True)
        for text in ([wording(settings, question, passage) for passage in row] or [question])
    ]
    token_ids, truncated = tokenize(tokenizer, texts, settings.text_maxlength)
    if truncated:
        _warn_of_long_queries(tokenizer, settings, query)
    if n_context:
        most = f"reader.settings.text_maxlength={settings.text_maxlength} with their query"
        warn_of_cut_passages(truncated, len(texts), most)
    tokens = Tokens.padded(token_ids, tokenizer.pad_token_id)
    shape = (len(query), max(n_context, 1), -1)
    return FiDInputs(Tokens(tokens.ids.view(shape), tokens.mask.view(shape)), n_context)


def wording(settings: ReaderSettings, query: str, passage: Passage) -> str:
    """Return what the encoder reads of a query and one passage."""
    if passage.heading:
        return settings.encoder_format.format(query=query, title=passage.heading, text=passage.text)
    return settings.encoder_format_untitled.format(query=query, text=passage.text)


def legible(tokenizer: Any, settings: ReaderSettings, query: str, passage: Passage) -> Passage:
    """Return a passage without the end of its text that is not read behind the query."""
    worded = wording(settings, query, passage)
    ids = tokenizer(worded, add_special_tokens=False, verbose=False).input_ids
    return without_end(tokenizer, passage, len(ids) - settings.text_maxlength + 1)


def tokenize(tokenizer: Any, texts: Sequence[str], maxlength: int) -> tuple[list[list[int]], int]:
    """Return each text's ids with its end-of-sequence token, and how many texts were cut."""
    eos: int = tokenizer.eos_token_id
    rows = tokenizer(list(texts), add_special_tokens=False, verbose=False).input_ids
    truncated = sum(len(row) >= maxlength for row in rows)
    return [[*row[: maxlength - 1], eos] for row in rows], truncated


def _warn_of_long_queries(tokenizer: Any, settings: ReaderSettings, query: Sequence[str]) -> None:
    rows = tokenizer(list(query), add_special_tokens=False, verbose=False).input_ids
    longest = max(map(len, rows))
    if longest >= settings.text_maxlength:
        warn_once(
            f"a query has {longest} tokens, and reader.settings.text_maxlength="
            f"{settings.text_maxlength} is the most that is read of it and a passage: its end "
            "and its passages are lost"
        )
