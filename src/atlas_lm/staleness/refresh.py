"""Every passage embedded anew with the current retriever, and swapped into the index."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from atlas_lm.index.files import Fingerprint
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

    def update_(
        self,
        rows: slice,
        embeddings: Float[Tensor, "n dim"],
        *,
        step: int | None = None,
        fingerprint: Fingerprint | None = None,
    ) -> None:
        """Replace the vectors of the rows."""
        ...


class Corpus(Protocol):
    """Passages by row."""

    def __len__(self) -> int: ...

    def passages(self, rows: Sequence[int]) -> list[Passage]:
        """Return the passages of the rows, in that order."""
        ...


def refresh(
    index: Refreshable,
    store: Corpus,
    embed: Embed,
    *,
    step: int | None = None,
    fingerprint: Fingerprint | None = None,
    at_a_time: int = PASSAGES_AT_A_TIME,
) -> None:
    """Replace every vector of the index by the current retriever's.

    The new vectors are computed beside the old ones and put in place in one call at the end: a
    search, or an exception on the way, sees all old or all new. Needs memory for both.

    Args:
        index: the index.
        store: its passages.
        embed: the current retriever's `embed_corpus`.
        step: the retriever's step, which the index then names; kept as it was if None.
        fingerprint: what the new vectors are computed with; kept as it was if None.
        at_a_time: passages handed to ``embed`` at once.

    Raises:
        InputError: index and store differ in length, or an embedding is not finite; the index is
            as it was.
    """
    if len(index) != len(store):
        raise InputError(
            f"the index holds {len(index)} vectors and the passage store {len(store)} passages; "
            "rebuild the index over these passages before refreshing it"
        )
    rows = range(len(store))
    embeddings = embed_rows(
        store, embed, rows, dim=index.dim, dtype=index.dtype, at_a_time=at_a_time
    )
    index.update_(slice(0, len(index)), embeddings, step=step, fingerprint=fingerprint)


def embed_rows(
    store: Corpus,
    embed: Embed,
    rows: Sequence[int],
    *,
    dim: int,
    dtype: torch.dtype,
    at_a_time: int = PASSAGES_AT_A_TIME,
) -> Float[Tensor, "n dim"]:
    """Return the embeddings of the passages in these rows, on the CPU, in this dtype.

    Raises:
        InputError: an embedding is not finite.
    """
    embeddings = torch.empty((len(rows), dim), dtype=dtype)
    for start in track(range(0, len(rows), at_a_time), "refreshing the index"):
        some = rows[start : start + at_a_time]
        fresh = embed(store.passages(some))
        if not bool(torch.isfinite(fresh).all()):
            raise InputError(
                f"refresh: passages {some[0]} to {some[-1]} include one whose embedding "
                "is not finite; the retriever has diverged: go back to the last checkpoint and "
                "lower training.retriever.lr"
            )
        embeddings[start : start + len(some)] = fresh.to("cpu", dtype)
    return embeddings
