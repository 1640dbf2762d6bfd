"""An index in training, with what it takes to embed its passages anew."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from jaxtyping import Float, Int32
from torch import Tensor

from atlas_lm.index import FlatIndex
from atlas_lm.index.files import MIXED, Fingerprint
from atlas_lm.index.member import steps_of
from atlas_lm.runtime.modes import evaluating
from atlas_lm.staleness.refresh import PASSAGES_AT_A_TIME, Corpus, embed_rows
from atlas_lm.types import Passage


class Encoder(Protocol):
    """A retriever: a module that embeds queries and passages."""

    def embed_queries(self, query: Sequence[str]) -> Float[Tensor, "bsz dim"]:
        """Return the embeddings of queries; mode and gradient are the caller's."""
        ...

    def embed_corpus(self, passages: Sequence[Passage]) -> Float[Tensor, "n dim"]:
        """Return the embeddings of passages: eval mode, no gradient."""
        ...


class LiveIndex:
    """The index, its passages and the retriever that is being trained.

    Args:
        index: The index; its vectors are taken to be those of step 0 of the run.
        store: Its passages.
        encoder: The retriever, a module.
        describe: Returns the fingerprint of vectors that the retriever would make now.
    """

    def __init__(
        self,
        index: FlatIndex,
        store: Corpus,
        encoder: Encoder,
        describe: Callable[[], Fingerprint],
    ) -> None:
        self.index, self.store, self.encoder, self.describe = index, store, encoder, describe
        self.version = 0
        """How often vectors were replaced: the same number, the same vectors."""
        self.embedded = 0
        """Passages embedded anew for the index since the run began."""
        index.set_steps_(0)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def row_steps(self) -> Int32[Tensor, " n"]:
        """The retriever's step of every row's vector."""
        return steps_of(self.index)

    def mean_age(self, step: int) -> float:
        """Return how many steps ago the vectors were made, on average over the rows."""
        if self.index.row_steps is None:
            return float(step - self.index.step)
        return step - self.index.row_steps.double().mean().item()

    def embed_recent(self, queries: Sequence[str]) -> Float[Tensor, "bsz dim"]:
        """Return the queries' embeddings as retrieval computes them."""
        if not queries:
            return torch.zeros((0, self.index.dim))
        assert isinstance(self.encoder, torch.nn.Module)
        with torch.no_grad(), evaluating(self.encoder):
            return self.encoder.embed_queries(queries)

    def renew(self, rows: Sequence[int], step: int) -> None:
        """Embed these rows with the retriever as it is at ``step``, and swap them in.

        Raises:
            InputError: an embedding is not finite; the index is as it was.
        """
        if not rows:
            return
        embeddings = embed_rows(
            self.store,
            self.encoder.embed_corpus,
            rows,
            dim=self.index.dim,
            dtype=self.index.dtype,
            at_a_time=PASSAGES_AT_A_TIME,
        )
        self.embedded += len(rows)
        some = len(rows) < len(self)  # of the rest one knows only that it is another encoder's
        mixed = dataclasses.replace(self.index.fingerprint, encoder=MIXED)
        self.put(rows, embeddings, step, mixed if some else self.describe())

    def put(
        self,
        rows: Sequence[int],
        embeddings: Float[Tensor, "some dim"],
        step: int,
        fingerprint: Fingerprint,
    ) -> None:
        """Put vectors of the retriever of ``step`` into these rows, in one call."""
        whole = len(rows) == len(self)
        self.index.update_(
            slice(0, len(self)) if whole else rows, embeddings, step=step, fingerprint=fingerprint
        )
        self.version += 1
