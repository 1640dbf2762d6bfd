"""One index whose rows are split over the processes of a run.

Process r of R holds a contiguous share of the rows and searches only that. For a search all
processes bring their queries (as many as each likes, or none); queries go to everybody, every share
is searched, and each process gets scores and rows back for its own queries. Neither vectors nor
text travel. What it returns is what the whole index in one process returns: exactly, for a kind
that is exact. Where codes choose what is rescored (int8, binary), every share chooses as many rows
as the whole would, so more is found: no place of a result has a lower score, but rows may differ.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from atlas_lm.index.base import Index
from atlas_lm.index.exact import check_queries, excluded_pairs, sort_found
from atlas_lm.index.files import Fingerprint
from atlas_lm.index.flat import FlatIndex
from atlas_lm.index.member import steps_of
from atlas_lm.index.opening import open_index
from atlas_lm.index.parted import PartedIndex, among_live
from atlas_lm.index.shares import (
    Found,
    Share,
    digest_of,
    gather_vectors,
    search_share,
)
from atlas_lm.passages.store import PassageStore
from atlas_lm.runtime import distributed
from atlas_lm.runtime.errors import InputError
from atlas_lm.types import SearchResult


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What one process brings to a search, as the numbers all processes learn of each other."""

    queries: int
    topk: int
    pairs: int
    mask: int
    """Digest of the mask; 0 for none."""

    @classmethod
    def of_all(cls, queries: int, topk: int, pairs: int, mask: int) -> list[_Asked]:
        """Tell the others and return what each says, by rank. Collective."""
        rows = distributed.gather_numbers([queries, topk, pairs, mask]).tolist()
        return [cls(queries=q, topk=k, pairs=p, mask=m) for q, k, p, m in rows]


class ShardedIndex:
    """The share of an index that this process holds, searched together with all others.

    Implements `index.base.Index`; `search` is collective: every process calls it, with the same
    ``topk``. A process that fails makes the search fail on all, so that none waits for ever.
    """

    def __init__(self, index: Index, *, device: torch.device | str = "cpu") -> None:
        """Keep this process's share of ``index``, which holds all rows (mapped, it costs nothing).

        Args:
            index: the whole index, the same on every process.
            device: where the share lives and is searched.
        """
        self.world = distributed.world()
        """The processes, and this one's place among them."""
        self.passage_files = index.passage_files
        """The passages the rows stand for."""
        self._count, self._dim, self._dtype = len(index), index.dim, index.dtype
        self._live = index.live_rows if isinstance(index, PartedIndex) else None
        self._share = Share.of(index, self.world.share(len(index)), device)

    def __len__(self) -> int:
        return self._count

    @property
    def dim(self) -> int:
        """Components of an embedding."""
        return self._dim

    @property
    def dtype(self) -> torch.dtype:
        """How embeddings are stored."""
        return self._dtype

    @property
    def fingerprint(self) -> Fingerprint:
        """What this share's vectors were computed with, and over."""
        return self._share.index.fingerprint

    @property
    def step(self) -> int:
        """The retriever's step when this share's vectors were computed."""
        return self._share.index.step

    @property
    def created(self) -> str:
        """When this share's vectors were written; "" where they are not yet."""
        return self._share.index.created

    @property
    def device(self) -> torch.device:
        """Where the share is searched."""
        return self._share.index.device

    @property
    def rows(self) -> range:
        """The rows this process holds, which are its to embed at a refresh."""
        return self._share.rows

    @property
    def local(self) -> Index:
        """The share as an index of its own: its row r is row ``rows[r]`` here."""
        return self._share.index

    def way(self, bsz: int) -> str:
        """Return in words how this process searches its share for ``bsz`` queries of all."""
        rows = self.rows
        return f"rows {rows.start:,} to {rows.stop:,} of {len(self):,}: {self.local.way(bsz)}"

    def search(
        self,
        query_emb: Float[Tensor, "bsz dim"],
        topk: int,
        exclude_rows: Sequence[Sequence[int]] | None = None,
        *,
        allowed_rows: Bool[Tensor, " n"] | None = None,
    ) -> SearchResult:
        """Return the ``topk`` best rows of every query of this process, best first. Collective.

        Args:
            query_emb: this process's queries; none at all is an empty [0 dim].
            topk: rows per query, the same on every process.
            exclude_rows: for each query, rows of the whole index that it may not get.
            allowed_rows: True for the rows that this process's queries may get, over the whole
                index; the others' masks may differ.

        Raises:
            InputError: as `FlatIndex.search`, on the process whose queries are at fault; the other
                processes raise one that names it. Or the processes ask for different ``topk``.
        """
        query = query_emb.detach().to(self.device, torch.float32)
        allowed_rows = among_live(allowed_rows, self._live)
        pairs = self._checked(query, topk, exclude_rows, allowed_rows)
        asked = _Asked.of_all(len(query), topk, len(pairs), digest_of(allowed_rows))
        self._agree_on_topk(asked)
        queries = torch.cat(distributed.gather(query))
        excluded = _of_all_queries(distributed.gather(pairs), asked)
        masks = self._masks(asked, allowed_rows)
        found = self._searched(queries, topk, excluded, masks, asked)
        return self._merged(found, asked, len(query), topk)

    def save(self, path: str | Path) -> None:
        """Write the whole index as one directory, which any number of processes opens. Collective.

        Process 0 receives the shares one after the other, into a file beside ``path``.

        Raises:
            InputError: the kind holds no vectors, or as `FlatIndex.save`; on every process.
        """
        local = self._share.index
        refused = InputError(
            f"a sharded index of {type(local).__name__} is not written again; copy the directory "
            "it was opened from, or open it in one process and save it there"
        )
        distributed.agree(None if isinstance(local, FlatIndex) else refused)
        assert isinstance(local, FlatIndex)
        whole = self._whole(local, Path(path).parent)
        with distributed.agreed():
            if whole is not None:
                whole.save(path)

    def _whole(self, local: FlatIndex, scratch: Path) -> FlatIndex | None:
        """Return the whole index on process 0, its vectors in a file in ``scratch``. Collective."""
        steps = steps_of(local)
        encoder = torch.frombuffer(bytearray(local.fingerprint.encoder.encode()), dtype=torch.uint8)
        all_steps, encoders = distributed.gather(steps), distributed.gather(encoder)
        room = gather_vectors(local.embeddings, scratch)
        if room is None:
            return None
        fingerprint = local.fingerprint
        for one in encoders:
            other = dataclasses.replace(fingerprint, encoder=bytes(one.tolist()).decode())
            fingerprint = fingerprint if other == fingerprint else fingerprint.mixed_with(other)
        whole = FlatIndex(room, fingerprint=fingerprint, passages=self.passage_files)
        whole.set_steps_(torch.cat(all_steps))
        whole.created = local.created
        return whole

    def _checked(
        self,
        query: Float[Tensor, "bsz dim"],
        topk: int,
        exclude_rows: Sequence[Sequence[int]] | None,
        allowed_rows: Bool[Tensor, " n"] | None,
    ) -> Int64[Tensor, "pairs 2"]:
        """Return (row, query) pairs that are excluded, once every process's input is sound."""
        error: Exception | None = None
        pairs = torch.empty((0, 2), dtype=torch.int64)
        try:
            check_queries(query, len(self), self.dim, topk)
            if len(query):
                pairs = excluded_pairs(exclude_rows, len(query), len(self), topk, allowed_rows)
        except InputError as refused:
            error = refused
        distributed.agree(error)
        return pairs

    def _agree_on_topk(self, asked: Sequence[_Asked]) -> None:
        different = sorted({one.topk for one in asked})
        if len(different) > 1:
            raise InputError(
                f"the processes ask for different topk ({', '.join(map(str, different))}); a "
                "search of a sharded index is one for all: give every process the same"
            )

    def _masks(
        self, asked: Sequence[_Asked], allowed_rows: Bool[Tensor, " n"] | None
    ) -> dict[int, Bool[Tensor, " rows"] | None]:
        """Return each mask's part over this share, by digest; bits travel only where needed."""
        own = slice(self.rows.start, self.rows.stop)
        masks: dict[int, Bool[Tensor, " rows"] | None] = {0: None}
        if allowed_rows is not None:
            masks[digest_of(allowed_rows)] = allowed_rows.cpu()[own]
        if len({one.mask for one in asked}) == 1:
            return masks
        bits = torch.empty(0, dtype=torch.uint8)
        if allowed_rows is not None:
            bits = torch.from_numpy(np.packbits(allowed_rows.cpu().numpy()))
        for one, packed in zip(asked, distributed.gather(bits), strict=True):
            if one.mask not in masks:
                whole = np.unpackbits(packed.numpy(), count=len(self))
                masks[one.mask] = torch.from_numpy(whole).bool()[own]
        return masks

    def _searched(
        self,
        queries: Float[Tensor, "all dim"],
        topk: int,
        excluded: Int64[Tensor, "pairs 2"],
        masks: dict[int, Bool[Tensor, " rows"] | None],
        asked: Sequence[_Asked],
    ) -> Found:
        """Search this share for the queries of all processes; fail on all where one fails."""
        scores = queries.new_full((len(queries), topk), -torch.inf)
        rows = torch.full_like(scores, -1, dtype=torch.int64)
        mask_of = torch.cat([torch.full((one.queries,), one.mask) for one in asked])
        with distributed.agreed():
            for digest in torch.unique(mask_of).tolist():
                chosen = (mask_of == digest).nonzero()[:, 0]
                found = search_share(self._share, queries, chosen, topk, excluded, masks[digest])
                scores[chosen], rows[chosen] = found
        return scores, rows

    def _merged(
        self, found: Found, asked: Sequence[_Asked], own_queries: int, topk: int
    ) -> SearchResult:
        """Exchange what was found for each other's queries and keep the best of all shares."""
        counts = [one.queries for one in asked]
        scores, rows = (
            torch.cat(
                distributed.exchange(torch.split(part, counts), [own_queries] * len(asked)), dim=1
            )
            if len(asked) > 1
            else part
            for part in found
        )
        scores, rows = sort_found(scores, rows)
        return SearchResult(scores[:, :topk], rows[:, :topk])


def open_sharded(
    path: str | Path | Sequence[str | Path],
    *,
    passages: Sequence[str | Path] | None = None,
    device: torch.device | str = "cpu",
) -> tuple[ShardedIndex, PassageStore]:
    """Open an index directory of any kind; this process keeps its share of the rows. Collective.

    The world that opens an index need not be of the size of the one that wrote it. Flat vectors
    are mapped: a process reads from disk only what is its own.

    Raises:
        InputError: as `open_index`, on every process where one fails.
    """
    with distributed.agreed():
        index, store = open_index(path, passages=passages)
        sharded = ShardedIndex(index, device=device)
    return sharded, store


def _of_all_queries(
    pairs: Sequence[Int64[Tensor, "pairs 2"]], asked: Sequence[_Asked]
) -> Int64[Tensor, "pairs 2"]:
    """Return the excluded (row, query) pairs with queries numbered over all processes."""
    first = 0
    numbered = []
    for one, its_pairs in zip(asked, pairs, strict=True):
        numbered.append(its_pairs + torch.tensor([0, first]))
        first += one.queries
    return torch.cat(numbered)
