"""A contiguous share of an index's rows, and its search."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from atlas_lm.index.base import Index
from atlas_lm.runtime import distributed
from atlas_lm.runtime.files import reserve
from atlas_lm.runtime.mapping import map_file
from atlas_lm.types import SearchResult

Found = tuple[Float[Tensor, "bsz topk"], Int64[Tensor, "bsz topk"]]


@runtime_checkable
class Divisible(Protocol):
    """An index that can be cut: a share of it holds, reads and searches its own rows only."""

    def share(self, rows: range) -> Index:
        """Return an index of these contiguous rows alone, over the same memory."""
        ...


@runtime_checkable
class Movable(Protocol):
    """An index that can live on another device."""

    def to(self, device: torch.device | str) -> Index:
        """Return the same index on ``device``."""
        ...


@dataclass(frozen=True)
class Share:
    """Some contiguous rows of an index.

    A `Divisible` index is cut. Of any other kind the share is the whole index searched under a
    mask of the rows, so processes on one machine share its memory only where it is mapped.
    """

    index: Index
    """What is searched: the share alone, or the whole."""
    rows: range
    """The rows of the whole."""
    cut: bool
    """Whether ``index`` holds these rows alone."""

    @classmethod
    def of(cls, index: Index, rows: range, device: torch.device | str) -> Share:
        """Return the share of ``rows`` of ``index``, on ``device`` where its kind can move."""
        whole = len(rows) == len(index)
        cut = whole or isinstance(index, Divisible)
        part = index.share(rows) if isinstance(index, Divisible) and not whole else index
        if torch.device(device) != part.device and isinstance(part, Movable):
            part = part.to(device)
        return cls(part, rows, cut)


def search_share(
    share: Share,
    queries: Float[Tensor, "all dim"],
    chosen: Int64[Tensor, " bsz"],
    topk: int,
    excluded: Int64[Tensor, "pairs 2"],
    mask: Bool[Tensor, " rows"] | None,
) -> Found:
    """Return the best rows of a share, numbered over the whole index, for the chosen queries.

    Where a share has fewer than ``topk`` rows left for a query, the rest is -inf and -1.

    Args:
        share: what is searched.
        queries: queries of all processes.
        chosen: those to be searched for.
        topk: rows per query.
        excluded: (row, query) pairs, rows of the whole index, queries numbered as in ``queries``.
        mask: True for the rows of the share that may be returned; all where None.
    """
    scores = queries.new_full((len(chosen), topk), -torch.inf)
    rows = torch.full_like(scores, -1, dtype=torch.int64)
    lists = _excluded_lists(share, chosen, excluded, mask)
    allowed = len(share.rows) if mask is None else int(mask.sum())
    left = torch.tensor([min(topk, allowed - len(one)) for one in lists])
    for count in torch.unique(left).tolist():
        some = (left == count).nonzero()[:, 0]
        if count > 0:
            its_lists = [lists[query] for query in some.tolist()]
            found = _search(share, queries[chosen[some]], count, its_lists, mask)
            some = some.to(scores.device)
            scores[some, :count] = found.scores
            rows[some, :count] = found.rows + (share.rows.start if share.cut else 0)
    return scores, rows


def _search(
    share: Share,
    queries: Float[Tensor, "bsz dim"],
    topk: int,
    exclude: Sequence[Sequence[int]],
    mask: Bool[Tensor, " rows"] | None,
) -> SearchResult:
    """Search the share; excluded and returned rows are numbered as in ``share.index``."""
    if not share.cut:
        whole = torch.zeros(len(share.index), dtype=torch.bool)
        whole[share.rows.start : share.rows.stop] = True if mask is None else mask
        exclude = [[row + share.rows.start for row in one] for one in exclude]
        mask = whole
    excluded = list(exclude) if any(exclude) else None
    return share.index.search(queries, topk, excluded, allowed_rows=mask)


def _excluded_lists(
    share: Share,
    chosen: Int64[Tensor, " bsz"],
    excluded: Int64[Tensor, "pairs 2"],
    mask: Bool[Tensor, " rows"] | None,
) -> list[list[int]]:
    """Return, for each chosen query, the rows of the share that it alone may not get."""
    lists: dict[int, list[int]] = {query: [] for query in chosen.tolist()}
    inside = (excluded[:, 0] >= share.rows.start) & (excluded[:, 0] < share.rows.stop)
    for row, query in excluded[inside].tolist():
        local = row - share.rows.start
        if query in lists and (mask is None or bool(mask[local])):
            lists[query].append(local)
    return [lists[query] for query in chosen.tolist()]


def digest_of(mask: Bool[Tensor, " n"] | None) -> int:
    """Return a number that differs between different masks; 0 for none."""
    if mask is None:
        return 0
    bits = np.packbits(mask.cpu().numpy())
    digest = hashlib.blake2b(bits.tobytes(), digest_size=7).digest()
    return 1 + int.from_bytes(digest, "little")


def mapped_room(
    directory: Path, count: int, dim: int, dtype: torch.dtype, *, rows: range | None = None
) -> Float[Tensor, "count dim"]:
    """Return a tensor that lives in a file, so that it needs no memory of its own.

    The file has no name any more: it goes with the tensor, also where the process is killed.

    Args:
        directory: Where it lies; made where it is missing.
        count: Rows.
        dim: Columns.
        dtype: Of the tensor.
        rows: Those that will be written: the disk has room for them. All where None.

    Raises:
        DiskFullError: it has not.
    """
    if not count * dim:
        return torch.empty((count, dim), dtype=dtype)
    directory.mkdir(parents=True, exist_ok=True)
    rows, width = range(count) if rows is None else rows, dim * dtype.itemsize
    handle, name = tempfile.mkstemp(dir=directory, prefix=".vectors.", suffix=".tmp")
    os.close(handle)
    try:
        reserve(name, len(rows) * width, first=rows.start * width)
        os.truncate(name, count * width)
        room = map_file(name, writable=True)
    finally:
        os.unlink(name)
    return room.view(dtype).view(count, dim)


def gather_vectors(
    own: Float[Tensor, "some dim"], directory: Path
) -> Float[Tensor, "count dim"] | None:
    """Return the vectors of all processes on process 0, in a `mapped_room`. Collective.

    Raises:
        InputError: the disk is full; on every process.
    """
    counts = distributed.gather_numbers([len(own)])[:, 0].tolist()
    room = None
    with distributed.agreed():
        if distributed.world().is_main:
            room = mapped_room(directory, sum(counts), own.shape[1], own.dtype)
    distributed.gather_into(room, own, counts)
    return room
