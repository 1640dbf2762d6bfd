"""What every index does: vectors in, rows out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from atlas_lm.types import SearchResult


class Index(Protocol):
    """A search structure over passage embeddings; row r is passage r of the store."""

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

    def search(
        self,
        query_emb: Float[Tensor, "bsz dim"],
        topk: int,
        exclude_rows: Sequence[Sequence[int]] | None = None,
    ) -> SearchResult:
        """Return the ``topk`` best rows of every query, best first, never an excluded one."""
        ...

    def update_(self, rows: slice | Sequence[int], embeddings: Float[Tensor, "n dim"]) -> None:
        """Replace the vectors of the rows."""
        ...

    def save(self, path: str | Path) -> None:
        """Write the index directory."""
        ...
