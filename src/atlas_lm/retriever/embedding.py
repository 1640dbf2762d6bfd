"""Tokens to vectors, in batches of a token budget; each distinct text is encoded once.

Texts are sorted by length, so that a batch has next to no padding, and the vectors come back in
the order asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from atlas_lm.retriever.pooling import POOLINGS
from atlas_lm.retriever.settings import EncoderSettings
from atlas_lm.retriever.tokenization import TokenLists, batches_by_length, tokenize
from atlas_lm.types import Tokens

CPU_BATCH_TOKENS = 2048
"""Padded tokens encoded at a time on a CPU: activations stay in its caches."""
DEVICE_BATCH_TOKENS = 32768
"""The same on an accelerator, which needs more to be busy."""


@dataclass
class EmbeddingReport:
    """Counts of what went through the encoder; they add up over calls."""

    texts: int = 0
    """Texts embedded."""
    truncated: int = 0
    """Texts longer than the limit, of which only the beginning was embedded."""
    tokens: int = 0
    """Real tokens encoded."""
    padding: int = 0
    """Pads encoded beside them."""

    @property
    def padding_waste(self) -> float:
        """The fraction of encoded positions that were padding."""
        return self.padding / max(self.tokens + self.padding, 1)

    def __str__(self) -> str:
        cut = f", {self.truncated} longer than the limit and cut" if self.truncated else ""
        return f"{self.texts} passages, {self.tokens} tokens{cut}, padding {self.padding_waste:.1%}"


def encode(
    encoder: PreTrainedModel, tokens: Tokens, settings: EncoderSettings
) -> Float[Tensor, "n dim"]:
    """Return the embedding of each row of ``tokens`` in float32; gradient follows torch's mode."""
    output = encoder(input_ids=tokens.ids, attention_mask=tokens.mask.to(torch.int64))
    embedding = POOLINGS[settings.pooling](output.last_hidden_state, tokens.mask)
    return F.normalize(embedding, dim=-1) if settings.unit_length else embedding


def inner_products(
    query_emb: Float[Tensor, "n dim"], key_emb: Float[Tensor, "m dim"]
) -> Float[Tensor, "n m"]:
    """Return every inner product in float32, under any autocast.

    In bfloat16 a product of 64 is known to a quarter, which a temperature of 0.05 makes five nats.
    """
    with torch.autocast(query_emb.device.type, enabled=False):
        return query_emb.float() @ key_emb.float().T


def embed_texts(
    encoder: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    settings: EncoderSettings,
    *,
    maxlength: int,
    batch_tokens: int | None = None,
    report: EmbeddingReport | None = None,
) -> Float[Tensor, "n dim"]:
    """Return one embedding a text, in order, in float32; gradient follows torch's mode.

    A text that occurs twice is encoded once, and its gradients add up. At most ``batch_tokens``
    padded tokens are encoded at a time; None takes what suits the device.
    """
    device = next(encoder.parameters()).device
    budget = batch_tokens or (CPU_BATCH_TOKENS if device.type == "cpu" else DEVICE_BATCH_TOKENS)
    distinct = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    token_lists = tokenize(tokenizer, list(distinct), maxlength)
    pieces: list[Tensor] = []
    order: list[int] = []
    for positions, tokens in padded_batches(token_lists, int(tokenizer.pad_token_id), budget):
        pieces.append(encode(encoder, tokens.to(device), settings))
        order.extend(positions)
        if report is not None:
            report.padding += int((~tokens.mask).sum())
    if report is not None:
        report.texts += len(texts)
        report.tokens += token_lists.tokens
        report.truncated += sum(token_lists.truncated[distinct[text]] for text in texts)
    if not pieces:
        return torch.zeros((0, int(encoder.config.hidden_size)), device=device)
    place_of = torch.empty(len(order), dtype=torch.int64)
    place_of[torch.tensor(order)] = torch.arange(len(order))
    wanted = place_of[torch.tensor([distinct[text] for text in texts])]
    return torch.cat(pieces)[wanted.to(device)]


def padded_batches(
    token_lists: TokenLists, pad_id: int, batch_tokens: int
) -> Iterator[tuple[list[int], Tokens]]:
    """Yield positions with their right-padded tokens, longest first."""
    lengths = [len(ids) for ids in token_lists.ids]
    for positions in batches_by_length(lengths, batch_tokens):
        rows = [token_lists.ids[position] for position in positions]
        yield positions, Tokens.padded(rows, pad_id)
