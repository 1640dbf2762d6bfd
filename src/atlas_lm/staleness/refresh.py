"""Passages of an index embedded anew with the current retriever."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from atlas_lm.index.build import PASSAGES_AT_A_TIME, Embed
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.logs import track
from atlas_lm.types import Passage


class Corpus(Protocol):
    """Passages by row."""

    def __len__(self) -> int: ...

    def passages(self, rows: Sequence[int]) -> list[Passage]:
        """Return the passages of the rows, in that order."""
        ...


def embed_rows(
    store: Corpus,
    embed: Embed,
    rows: Sequence[int],
    *,
    dim: int,
    dtype: torch.dtype,
) -> Float[Tensor, "n dim"]:
    """Return the embeddings of the passages in these rows, on the CPU, in this dtype.

    Raises:
        InputError: an embedding is not finite.
    """
    embeddings = torch.empty((len(rows), dim), dtype=dtype)
    for start in track(range(0, len(rows), PASSAGES_AT_A_TIME), "refreshing the index"):
        some = rows[start : start + PASSAGES_AT_A_TIME]
        fresh = embed(store.passages(some))
        if not bool(torch.isfinite(fresh).all()):
            raise InputError(
                f"refresh: passages {some[0]} to {some[-1]} include one whose embedding "
                "is not finite; the retriever has diverged: go back to the last checkpoint and "
                "lower training.retriever.lr"
            )
        embeddings[start : start + len(some)] = fresh.to("cpu", dtype)
    return embeddings
