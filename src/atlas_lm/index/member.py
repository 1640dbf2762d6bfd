"""What is asked of one index among several: its vectors, its steps, some of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int32
from torch import Tensor

from atlas_lm.index.base import Index
from atlas_lm.index.files import PassageFiles
from atlas_lm.runtime.errors import InputError
from atlas_lm.types import SearchResult

NO_VECTORS = (
    "{kind} keeps no full-precision vectors to read or replace; rebuild it with `atlas-lm index "
    "build --keep-vectors` or as kind flat"
)


class Window:
    """Contiguous rows of an index that cannot be cut: the whole, searched under a mask.

    Implements `index.base.Index`; its row r is row ``rows[r]`` of the whole.
    """

    def __init__(self, whole: Index, rows: range) -> None:
        """Look at ``rows`` of ``whole``."""
        self.whole, self.rows = whole, rows
        self.fingerprint = whole.fingerprint
        """What the vectors were computed with, and over."""
        self.passage_files = whole.passage_files
        """The passages of the whole."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def dim(self) -> int:
        """Components of an embedding."""
        return self.whole.dim

    @property
    def dtype(self) -> torch.dtype:
        """How embeddings are stored."""
        return self.whole.dtype

    @property
    def step(self) -> int:
        """The retriever's step when the vectors were computed."""
        return self.whole.step

    @property
    def created(self) -> str:
        """When the vectors of the whole were written; "" where they are not yet."""
        return self.whole.created

    @property
    def device(self) -> torch.device:
        """Where searches run."""
        return self.whole.device

    def way(self, bsz: int) -> str:
        """Return in words how a batch of ``bsz`` queries is searched."""
        return self.whole.way(bsz)

    def search(
        self,
        query_emb: Float[Tensor, "bsz dim"],
        topk: int,
        exclude_rows: Sequence[Sequence[int]] | None = None,
        *,
        allowed_rows: Bool[Tensor, " n"] | None = None,
    ) -> SearchResult:
        """Return the ``topk`` best of these rows; see `base.Index.search`."""
        start = self.rows.start
        mask = torch.zeros(len(self.whole), dtype=torch.bool)
        mask[start : self.rows.stop] = True if allowed_rows is None else allowed_rows.to("cpu")
        exclude = None
        if exclude_rows is not None:
            exclude = [[row + start for row in rows] for rows in exclude_rows]
        found = self.whole.search(query_emb, topk, exclude, allowed_rows=mask)
        return SearchResult(found.scores, found.rows - start)

    def save(self, path: str | Path) -> None:
        """Refuse: some rows of an index are no index.

        Raises:
            InputError: always.
        """
        raise InputError(f"{path}: some rows alone are not saved; save the whole index")


def vectors_of(index: Index) -> Float[Tensor, "n dim"]:
    """Return the full-precision vectors of an index.

    Raises:
        InputError: it keeps none.
    """
    for name in ("vectors", "embeddings"):
        found = getattr(index, name, None)
        if isinstance(found, Tensor):
            return found
    raise InputError(NO_VECTORS.format(kind=type(index).__name__))


def steps_of(index: Index) -> Int32[Tensor, " n"]:
    """Return the retriever's step of every row's vector."""
    steps = getattr(index, "row_steps", None)
    if isinstance(steps, Tensor):
        return steps
    return torch.full((len(index),), index.step, dtype=torch.int32)


def joined_files(indexes: Sequence[Index]) -> PassageFiles | None:
    """Return the passage files of several indexes in order; None where one has none."""
    files = [index.passage_files for index in indexes]
    known = [one for one in files if one is not None]
    if len(known) < len(files):
        return None
    return PassageFiles(files=tuple(file for one in known for file in one.files))
