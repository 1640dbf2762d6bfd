"""Several indexes searched as one; rows count on from one part to the next.

An index that was added to, updated or deleted from is its own first part, the additions, and a list
of rows that are dead; a stack is the same over indexes of their own. Parts may be of any kind.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int32
from numpy.typing import NDArray
from torch import Tensor

from atlas_lm.index.base import Index
from atlas_lm.index.directory import writing
from atlas_lm.index.exact import check_queries, excluded_pairs, sort_found
from atlas_lm.index.files import Fingerprint, PassageFiles
from atlas_lm.index.member import Window, steps_of, vectors_of
from atlas_lm.index.shares import Divisible, Movable, Share, search_share
from atlas_lm.index.storage import write_index
from atlas_lm.runtime.errors import InputError
from atlas_lm.types import SearchResult


class PartedIndex:
    """Indexes searched as one, without their dead rows. Implements `index.base.Index`."""

    def __init__(
        self,
        parts: Sequence[Index],
        deleted: NDArray[np.int64] | None = None,
        *,
        passages: PassageFiles | None = None,
    ) -> None:
        """Join the parts.

        Args:
            parts: at least one, of the same dim, encoder, template, pooling and length.
            deleted: rows of the whole that are never returned, sorted.
            passages: the passage files of all parts, in order.

        Raises:
            InputError: the parts do not belong together; the message names the field.
        """
        self.parts = tuple(parts)
        """The indexes, in the order of their rows."""
        self.deleted = np.zeros(0, np.int64) if deleted is None else np.asarray(deleted, np.int64)
        """Rows that are never returned, sorted."""
        self.passage_files = passages
        """The passages the rows stand for."""
        starts = np.cumsum([0, *(len(part) for part in parts)]).tolist()
        self._spans = [range(start, stop) for start, stop in pairwise(starts)]
        self._live = _live(self.deleted, starts[-1])
        self.fingerprint = _joint(self.parts)
        """What the vectors were computed with; its corpus is that of the first part until
        `open_index` says which the whole has."""

    def __len__(self) -> int:
        return self._spans[-1].stop

    @property
    def live(self) -> int:
        """Rows that are not dead."""
        return len(self) - len(self.deleted)

    @property
    def live_rows(self) -> Bool[Tensor, " n"] | None:
        """True for the rows that are not dead; None where all are live."""
        return self._live

    @property
    def dim(self) -> int:
        """Components of an embedding."""
        return self.parts[0].dim

    @property
    def dtype(self) -> torch.dtype:
        """How the first part stores its embeddings."""
        return self.parts[0].dtype

    @property
    def device(self) -> torch.device:
        """Where the first part is searched and results live."""
        return self.parts[0].device

    @property
    def step(self) -> int:
        """The retriever's step of the oldest part."""
        return min(part.step for part in self.parts)

    @property
    def created(self) -> str:
        """When the vectors of the oldest part were written; "" where none is yet."""
        return min((part.created for part in self.parts if part.created), default="")

    @property
    def row_steps(self) -> Int32[Tensor, " n"] | None:
        """The step of every row's vector; None where all are of `step`."""
        steps = [steps_of(part) for part in self.parts]
        joined = torch.cat(steps)
        return None if bool((joined == joined[:1]).all()) else joined

    @property
    def embeddings(self) -> Float[Tensor, "n dim"]:
        """A copy of the vectors of all rows, dead ones too, in memory.

        Raises:
            InputError: a part keeps no vectors.
        """
        return torch.cat([vectors_of(part).to(self.device, self.dtype) for part in self.parts])

    def way(self, bsz: int) -> str:
        """Return in words how ``bsz`` queries are searched, and how many rows each way."""
        rows: Counter[str] = Counter()
        for part in self.parts:
            rows[part.way(bsz)] += len(part)
        return "; ".join(f"{count:,} rows: {way}" for way, count in rows.items())

    def to(self, device: torch.device | str) -> PartedIndex:
        """Return the same index with every part that can move on ``device``."""
        parts = [part.to(device) if isinstance(part, Movable) else part for part in self.parts]
        return self._with(parts, self.deleted)

    def share(self, rows: range) -> PartedIndex:
        """Return an index of these contiguous rows alone, over the same memory.

        Where there are none it has an empty share of the first part.
        """
        overlaps = [_overlap(rows, span) for span in self._spans]
        cuts = [one for one in zip(self.parts, overlaps, strict=True) if one[1]]
        parts = [_cut(part, own) for part, own in cuts or [(self.parts[0], range(0))]]
        mine = self.deleted[(self.deleted >= rows.start) & (self.deleted < rows.stop)]
        return self._with(parts, mine - rows.start)

    def search(
        self,
        query_emb: Float[Tensor, "bsz dim"],
        topk: int,
        exclude_rows: Sequence[Sequence[int]] | None = None,
        *,
        allowed_rows: Bool[Tensor, " n"] | None = None,
    ) -> SearchResult:
        """Return the ``topk`` best live rows of every query, best first, never an excluded one.

        Args:
            query_emb: the queries.
            topk: rows per query.
            exclude_rows: for each query, rows it may not get; dead rows among them do no harm.
            allowed_rows: True for the rows that any query may get.

        Raises:
            InputError: fewer than ``topk`` rows are left for a query, or as `FlatIndex.search`.
        """
        query = query_emb.detach().to(self.device, torch.float32)
        check_queries(query, len(self), self.dim, topk)
        allowed = among_live(allowed_rows, self._live)
        pairs = excluded_pairs(exclude_rows, len(query), len(self), topk, allowed)
        chosen = torch.arange(len(query))
        scores, rows = [], []
        for part, span in zip(self.parts, self._spans, strict=True):
            mask = None if allowed is None else allowed[span.start : span.stop]
            share = Share(part, span, cut=True)
            found = search_share(share, query, chosen, topk, pairs, mask)
            scores.append(found[0].to(self.device))
            rows.append(found[1].to(self.device))
        best, its_rows = sort_found(torch.cat(scores, dim=1), torch.cat(rows, dim=1))
        return SearchResult(best[:, :topk].contiguous(), its_rows[:, :topk])

    def save(
        self,
        path: str | Path,
        *,
        passages: PassageFiles | None = None,
        copy_passages: bool = False,
    ) -> None:
        """Write the whole as one flat index directory; dead rows stay dead.

        Raises:
            InputError: a part keeps no vectors, the directory holds something else or is being
                written, or the disk is full.
        """
        arrays = {} if self._live is None else {"deleted": torch.from_numpy(self.deleted)}
        steps = self.row_steps
        with writing(path):
            self.passage_files = write_index(
                Path(path),
                self.embeddings,
                kind="flat",
                step=self.step,
                fingerprint=self.fingerprint,
                passages=passages or self.passage_files,
                copy_passages=copy_passages,
                arrays=arrays if steps is None else {**arrays, "row_steps": steps},
                deleted=len(self.deleted),
                created=self.created,
            ).passages

    def _with(self, parts: Sequence[Index], deleted: NDArray[np.int64]) -> PartedIndex:
        other = PartedIndex(parts, deleted, passages=self.passage_files)
        other.fingerprint = self.fingerprint
        return other


def among_live(
    allowed_rows: Bool[Tensor, " n"] | None, live: Bool[Tensor, " n"] | None
) -> Bool[Tensor, " n"] | None:
    """Return which rows are allowed and live, on the CPU; a mask of a wrong length as it is."""
    if allowed_rows is None:
        return live
    allowed = allowed_rows.to("cpu")
    return allowed if live is None or len(allowed) != len(live) else allowed & live


def _joint(parts: Sequence[Index]) -> Fingerprint:
    """Return the fingerprint of all parts, with the first part's corpus."""
    first = parts[0].fingerprint
    joint = first
    for number, part in enumerate(parts[1:], 2):
        other = dataclasses.replace(part.fingerprint, corpus=first.corpus)
        try:
            joint = joint.mixed_with(other)
        except InputError as error:
            raise InputError(f"part {number} of {len(parts)}: {error}") from error
    return joint


def _live(deleted: NDArray[np.int64], count: int) -> Bool[Tensor, " n"] | None:
    if not len(deleted):
        return None
    if deleted[0] < 0 or deleted[-1] >= count:
        raise InputError(
            f"row {int(deleted[-1])} is marked as deleted, but there are {count} rows; "
            "the index is damaged: rebuild it"
        )
    live = torch.ones(count, dtype=torch.bool)
    live[torch.from_numpy(np.ascontiguousarray(deleted))] = False
    return live


def _overlap(rows: range, span: range) -> range:
    """Return which rows of a part lie in ``rows``, numbered within the part."""
    start, stop = max(rows.start, span.start), min(rows.stop, span.stop)
    return range(start - span.start, max(stop, start) - span.start)


def _cut(part: Index, rows: range) -> Index:
    if len(rows) == len(part):
        return part
    return part.share(rows) if isinstance(part, Divisible) else Window(part, rows)
