"""Text to right-padded tokens, sorted into batches of nearly one length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class TokenLists:
    """Ragged token ids, special tokens included."""

    ids: tuple[list[int], ...]
    truncated: tuple[bool, ...]
    """Which texts were longer than the limit, so that only their beginning is here."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def tokens(self) -> int:
        """The number of tokens in all."""
        return sum(map(len, self.ids))


def tokenize(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], maxlength: int
) -> TokenLists:
    """Return the tokens of each text, cut to ``maxlength`` with the special tokens kept."""
    if not texts:
        return TokenLists((), ())
    encoded = tokenizer(
        list(texts),
        truncation=True,
        max_length=maxlength,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    return TokenLists(tuple(encoded["input_ids"]), _truncated(tokenizer, encoded, texts))


def batches_by_length(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Yield positions, longest first, in batches of at most ``batch_tokens`` padded tokens.

    A batch also ends where the next text is shorter than four fifths of its longest, unless it is
    still small (an eighth of the budget), so that a few texts of all lengths are not mostly pads.
    A single text longer than the budget is a batch of its own.
    """
    batch: list[int] = []
    longest = 1
    for position in sorted(range(len(lengths)), key=lambda position: -lengths[position]):
        is_full = (len(batch) + 1) * longest > batch_tokens
        is_ragged = 5 * lengths[position] < 4 * longest and 8 * len(batch) * longest > batch_tokens
        if batch and (is_full or is_ragged):
            yield batch
            batch = []
        if not batch:
            longest = max(lengths[position], 1)
        batch.append(position)
    if batch:
        yield batch


def _truncated(
    tokenizer: PreTrainedTokenizerBase, encoded: Any, texts: Sequence[str]
) -> tuple[bool, ...]:
    if encoded.encodings is not None:
        return tuple(bool(encoding.overflowing) for encoding in encoded.encodings)
    whole = tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
    return tuple(
        len(full) > len(cut) for full, cut in zip(whole, encoded["input_ids"], strict=True)
    )
