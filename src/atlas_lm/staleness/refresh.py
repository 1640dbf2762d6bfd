"""Every passage embedded anew with the current retriever, and swapped into the index."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.logs import track
from atlas_lm.types import Passage

PASSAGES_AT_A_TIME = 4096
"""Passages handed to the encoder at once: enough to sort by length, little enough to hold."""

Embed = Callable[[Sequence[Passage]], Float[Tensor, "n dim"]]
"""Passages to embeddings: eval mode, no gradient, such as `BiEncoder.embed_corpus`."""


class Refreshable(Protocol):
    """An index whose vectors can be replaced."""

    def __len__(self) -> int: ...

    @property
    def dim(self) -> int:
        """Components of an embedding."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """How embeddings are stored."""
        ...

    def update_(self, rows: slice, embeddings: Float[Tensor, "n dim"]) -> None:
        """Replace the vectors of the rows."""
        ...


class Corpus(Protocol):
    """Passages by row."""

    def __len__(self) -> int: ...

    def passages(self, rows: Sequence[int]) -> list[Passage]:
        """Return the passages of the rows, in that order."""
        ...


def refresh(
    index: Refreshable, store: Corpus, embed: Embed, *, at_a_time: int = PASSAGES_AT_A_TIME
) -> None:
    """Replace every vector of the index by the current retriever's.

    The new vectors are computed beside the old ones and put in place in one call at the end: a
    search, or an exception on the way, sees all old or all new. Needs memory for both.

    Raises:
        InputError: index and store differ in length, or an embedding is not finite; the index is
            as it was.
    """
    index.update_(slice(0, len(index)), embed_all(store, embed, index, at_a_time=at_a_time))


def embed_all(
    store: Corpus, embed: Embed, index: Refreshable, *, at_a_time: int
) -> Float[Tensor, "n dim"]:
    """Return the embeddings of every passage, in the index's own dtype."""
    if len(index) != len(store):
        raise InputError(
            f"the index holds {len(index)} vectors and the passage store {len(store)} passages; "
            "rebuild the index over these passages before refreshing it"
        )
    embeddings = torch.empty((len(store), index.dim), dtype=index.dtype)
    starts = range(0, len(store), at_a_time)
    for start in track(starts, "refreshing the index"):
        rows = range(start, min(start + at_a_time, len(store)))
        fresh = embed(store.passages(rows))
        if not bool(torch.isfinite(fresh).all()):
            raise InputError(
                f"refresh: passages {rows.start} to {rows.stop - 1} include one whose embedding "
                "is not finite; the retriever has diverged: go back to the last checkpoint and "
                "lower training.retriever.lr"
            )
        embeddings[rows.start : rows.stop] = fresh.to("cpu", index.dtype)
    return embeddings
