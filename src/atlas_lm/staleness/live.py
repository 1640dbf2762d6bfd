"""An index in training, with what it takes to embed its passages anew.

Where the index is sharded, each process embeds and replaces the rows of its own share; all call the
same methods with the same arguments.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int32, Int64
from torch import Tensor

from atlas_lm.index import FlatIndex
from atlas_lm.index.files import MIXED, Fingerprint
from atlas_lm.index.member import steps_of
from atlas_lm.index.sharded import ShardedIndex
from atlas_lm.index.shares import gather_vectors
from atlas_lm.runtime import distributed
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.modes import evaluating
from atlas_lm.staleness.refresh import Corpus, embed_rows
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
        index: The index, or this process's part of a sharded one; its vectors are taken to be those
            of step 0 of the run.
        store: Its passages.
        encoder: The retriever, a module.
        describe: Returns the fingerprint of vectors that the retriever would make now.
        allowed_rows: True for the rows that the run's queries may find; all where None.
    """

    def __init__(
        self,
        index: FlatIndex | ShardedIndex,
        store: Corpus,
        encoder: Encoder,
        describe: Callable[[], Fingerprint],
        allowed_rows: Bool[Tensor, " n"] | None = None,
    ) -> None:
        self.index, self.store, self.encoder, self.describe = index, store, encoder, describe
        self.allowed_rows = allowed_rows
        """True for the rows that the run's queries may find; None where they may find all."""
        self.own = index.rows if isinstance(index, ShardedIndex) else range(len(index))
        """The rows that this process embeds and holds."""
        self.version = 0
        """How often vectors were replaced: the same number, the same vectors."""
        self.embedded = 0
        """Passages embedded anew for the index since the run began, by all processes."""
        self.local.set_steps_(0)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def n_findable(self) -> int:
        """How many rows the run's queries may find."""
        return len(self) if self.allowed_rows is None else int(self.allowed_rows.sum())

    @property
    def is_shared(self) -> bool:
        """Whether several processes hold a share each."""
        return len(self.own) < len(self) or distributed.world().size > 1

    @property
    def local(self) -> FlatIndex:
        """The vectors that this process holds: row r is row ``own[r]`` of the index."""
        local = self.index.local if isinstance(self.index, ShardedIndex) else self.index
        assert isinstance(local, FlatIndex)
        return local

    @property
    def row_steps(self) -> Int32[Tensor, " n"]:
        """The retriever's step of every row's vector. Collective where shared."""
        steps = steps_of(self.local)
        return torch.cat(distributed.gather(steps)) if self.is_shared else steps

    def mean_age(self, step: int) -> float:
        """Return how many steps ago the vectors were made, on average. Collective where shared."""
        if self.is_shared:
            return step - self.row_steps.double().mean().item()
        if self.local.row_steps is None:
            return float(step - self.index.step)
        return step - self.local.row_steps.double().mean().item()

    def embed_recent(self, queries: Sequence[str]) -> Float[Tensor, "bsz dim"]:
        """Return the queries' embeddings as retrieval computes them."""
        if not queries:
            return torch.zeros((0, self.index.dim))
        assert isinstance(self.encoder, torch.nn.Module)
        with torch.no_grad(), evaluating(self.encoder):
            return self.encoder.embed_queries(queries)

    def find(self, queries: Sequence[str], topk: int) -> Int64[Tensor, "bsz topk"]:
        """Return the rows of the best findable passages of every query. Collective where shared."""
        allowed = self.allowed_rows
        if not self.is_shared:
            return self.index.search(self.embed_recent(queries), topk, allowed_rows=allowed).rows
        own = distributed.world().share(len(queries))
        query_emb = self.embed_recent(queries[own.start : own.stop])
        found = self.index.search(query_emb, topk, allowed_rows=allowed).rows.cpu()
        return torch.cat(distributed.gather(found))

    def observed(self, queries: Sequence[str]) -> list[str]:
        """Return the queries of all processes. Collective where shared."""
        return distributed.in_order_of_ranks(queries) if self.is_shared else list(queries)

    def compare(
        self, rows: Sequence[int]
    ) -> tuple[Float[Tensor, "some dim"], Float[Tensor, "some dim"]]:
        """Return these rows' vectors in the index, and fresh ones. Collective where shared.

        Args:
            rows: Ascending.
        """
        own = self._own(rows)
        places = torch.tensor(own, dtype=torch.int64, device=self.index.device) - self.own.start
        stale = self.local.embeddings[places]
        fresh = self.encoder.embed_corpus(self.store.passages(own))
        if not self.is_shared:
            return stale, fresh
        stale, fresh = stale.float().cpu(), fresh.float().cpu()
        return torch.cat(distributed.gather(stale)), torch.cat(distributed.gather(fresh))

    def renew(
        self,
        rows: Sequence[int],
        step: int,
        stopping: Callable[[], bool] = distributed.never,
    ) -> None:
        """Embed these rows with the retriever as it is at ``step``, and swap them in.

        Collective where shared: each process embeds its own.

        Raises:
            InputError: an embedding is not finite; the index is as it was.
            StopAsked: ``stopping`` was true on the way, somewhere; the index is as it was.
        """
        if not rows:
            return
        own = self._own(rows)
        with distributed.in_pieces(stopping) as meet:

            def embed(passages: Sequence[Passage]) -> Float[Tensor, "n dim"]:
                fresh = self.encoder.embed_corpus(passages)
                meet()
                return fresh

            embeddings = embed_rows(
                self.store, embed, own, dim=self.index.dim, dtype=self.index.dtype
            )
        self.embedded += len(rows)
        some = len(rows) < len(self)  # of the rest one knows only that it is another encoder's
        mixed = dataclasses.replace(self.index.fingerprint, encoder=MIXED)
        self._put(own, embeddings, step, mixed if some else self.describe())

    def put(
        self,
        rows: Sequence[int],
        embeddings: Float[Tensor, "some dim"],
        step: int,
        fingerprint: Fingerprint,
    ) -> None:
        """Put vectors of the retriever of ``step`` into these rows, in one call.

        Of rows that another process holds, nothing is put here.
        """
        own = self._own(rows)
        if len(own) < len(rows):
            here = set(own)
            kept = [place for place, row in enumerate(rows) if row in here]
            embeddings = embeddings[torch.tensor(kept, dtype=torch.int64)]
        self._put(own, embeddings, step, fingerprint)

    def tensors(self, scratch: Path | None = None) -> dict[str, Tensor]:
        """Return the vectors and their steps, for a checkpoint.

        Collective where shared: process 0 returns those of all, the others nothing.

        Args:
            scratch: A directory where what process 0 receives takes room, not in memory; None for
                the system's.

        Raises:
            InputError: there is no room; on every process.
        """
        local = self.local
        if not self.is_shared:
            steps = {} if local.row_steps is None else {"row_steps": local.row_steps}
            return {"embeddings": local.embeddings, **steps}
        whole = gather_vectors(local.embeddings.cpu(), scratch or Path(tempfile.gettempdir()))
        steps_of_all = self.row_steps
        return {} if whole is None else {"embeddings": whole, "row_steps": steps_of_all}

    def restore(
        self, tensors: Mapping[str, Tensor], *, step: int, fingerprint: Fingerprint
    ) -> None:
        """Take up the vectors that `tensors` returned, however many processes there were.

        Raises:
            InputError: they are of an index of another shape.
        """
        embeddings, shape = tensors["embeddings"], [len(self), self.index.dim]
        if list(embeddings.shape) != shape:
            raise InputError(
                f"resume: the run's index holds vectors of shape {list(embeddings.shape)}, the one "
                f"that is open {shape}; open the index it began with"
            )
        own = slice(self.own.start, self.own.stop)
        every = slice(0, len(self.own))
        self.local.update_(every, embeddings[own], step=step, fingerprint=fingerprint)
        if "row_steps" in tensors:
            self.local.set_steps_(tensors["row_steps"][own])

    def _put(
        self, own: Sequence[int], embeddings: Tensor, step: int, fingerprint: Fingerprint
    ) -> None:
        places = [row - self.own.start for row in own] if self.own.start else own
        every = slice(0, len(self.own)) if len(own) == len(self.own) else places
        self.local.update_(every, embeddings, step=step, fingerprint=fingerprint)
        self.version += 1

    def _own(self, rows: Sequence[int]) -> Sequence[int]:
        """Return those of the rows that this process holds."""
        if len(self.own) == len(self):
            return rows
        if isinstance(rows, range) and rows == range(len(self)):
            return self.own
        return [row for row in rows if row in self.own]
