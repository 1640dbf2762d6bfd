"""What every index does: vectors in, rows out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from atlas_lm.index.files import Fingerprint, PassageFiles
from atlas_lm.types import SearchResult


class Index(Protocol):
    """A search structure over passage embeddings; row r is passage r of the store."""

    fingerprint: Fingerprint
    """What the vectors were computed with, and over."""
    passage_files: PassageFiles | None
    """The passages the rows stand for, once the index is on disk."""

    def __len__(self) -> int: ...

    @property
    def dim(self) -> int:
        """Components of an embedding."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """How embeddings are stored."""
        ...

    @property
    def step(self) -> int:
        """The retriever's step when the vectors were computed."""
        ...

    @property
    def created(self) -> str:
        """When the oldest of the vectors was written (UTC, ISO 8601); "" where none is yet."""
        ...

    @property
    def device(self) -> torch.device:
        """Where searches run."""
        ...

    def way(self, bsz: int) -> str:
        """Return in words how a batch of ``bsz`` queries is searched."""
        ...

    def search(
        self,
        query_emb: Float[Tensor, "bsz dim"],
        topk: int,
        exclude_rows: Sequence[Sequence[int]] | None = None,
        *,
        allowed_rows: Bool[Tensor, " n"] | None = None,
    ) -> SearchResult:
        """Return the ``topk`` best rows of every query, best first, never an excluded one.

        Scores are float32 inner products; equal scores go to the lower row.

        Args:
            query_emb: the queries, on any device, in any floating dtype.
            topk: rows per query.
            exclude_rows: for each query, rows it may not get.
            allowed_rows: True for the rows that any query may get; all where None.

        Raises:
            InputError: fewer than ``topk`` rows are left for a query.
        """
        ...

    def save(self, path: str | Path) -> None:
        """Write the index directory."""
        ...
