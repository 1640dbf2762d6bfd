"""Exact search of one tensor: score every row in chunks, rescore the best in float64."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from atlas_lm.index.threads import on_threads
from atlas_lm.index.topk import BLOCK, RunningTopk
from atlas_lm.runtime.errors import InputError
from atlas_lm.types import SearchResult

CHUNK_BYTES = {"cpu": 8 << 20, "cuda": 1 << 30}
"""Memory for a thread's chunk, widened vectors and scores: in cache on CPU, large on a GPU."""
MARGIN = 16
"""Rows found beyond ``topk`` and rescored, so that rounding cannot push a row out."""

Found = tuple[Float[Tensor, "bsz n_found"], Int64[Tensor, "bsz n_found"]]


@torch.no_grad()
def exact_search(
    embeddings: Float[Tensor, "n dim"],
    query_emb: Float[Tensor, "bsz dim"],
    topk: int,
    exclude_rows: Sequence[Sequence[int]] | None = None,
    *,
    allowed_rows: Bool[Tensor, " n"] | None = None,
) -> SearchResult:
    """Return the ``topk`` rows of greatest inner product; see `FlatIndex.search`.

    Raises:
        InputError: see `FlatIndex.search`.
    """
    query = query_emb.detach().to(embeddings.device, torch.float32)
    check_queries(query, len(embeddings), embeddings.shape[1], topk)
    excluded = excluded_pairs(exclude_rows, len(query), len(embeddings), topk, allowed_rows)
    hidden = None if allowed_rows is None else ~allowed_rows.to(query.device)
    n_found = min(topk + MARGIN, len(embeddings))
    scores, rows = _scan(embeddings, query, n_found, excluded.to(query.device), hidden)
    if not bool(torch.isfinite(scores[:, :topk]).all()):
        raise InputError("search: a score overflows float32; scale the embeddings down")
    return SearchResult(scores[:, :topk], rows[:, :topk])


def check_dim(embeddings: Tensor, dim: int, what: str = "embeddings") -> None:
    """Raise `InputError` unless ``embeddings`` is [n dim]."""
    if embeddings.dim() != 2 or embeddings.shape[1] != dim:
        raise InputError(
            f"{what} of shape {list(embeddings.shape)}, but the index is of dim {dim}; use the "
            "retriever the index was built with"
        )


def check_finite(embeddings: Float[Tensor, "n dim"], *, first_row: int = 0) -> None:
    """Raise `InputError`, naming the row, where a component is NaN or infinite."""
    size = max(CHUNK_BYTES["cpu"] // (4 * embeddings.shape[1]), 1)
    for start in range(0, len(embeddings), size):
        low, high = torch.aminmax(embeddings[start : start + size])  # NaN carries through
        if not bool(torch.isfinite(low) & torch.isfinite(high)):
            finite = torch.isfinite(embeddings[start : start + size]).all(dim=1)
            row = first_row + start + int((~finite).nonzero()[0])
            raise InputError(
                f"embedding of row {row} is not finite in {embeddings.dtype}; the retriever has "
                "diverged, or its vectors need a wider dtype (float32)"
            )


def _scan(
    embeddings: Float[Tensor, "n dim"],
    query: Float[Tensor, "bsz dim"],
    n_found: int,
    excluded: Int64[Tensor, "pairs 2"],
    hidden: Bool[Tensor, " n"] | None,
) -> Found:
    """Score all rows, a chunk at a time, on all threads; return the best, best first."""
    threads = torch.get_num_threads() if query.device.type == "cpu" else 1
    size = _chunk_rows(embeddings, len(query), n_found, threads)
    starts = iter(range(0, len(embeddings), size))
    taking = threading.Lock()

    def take() -> int | None:
        with taking:
            return next(starts, None)

    def scan_some() -> Found:
        return _scan_chunks(embeddings, query, n_found, excluded, hidden, size, iter(take, None))

    threads = min(threads, -(-len(embeddings) // size))
    parts = on_threads(scan_some, threads) if threads > 1 else [scan_some()]
    scores, rows = (torch.cat(part, dim=1) for part in zip(*parts, strict=True))
    rows, by_row = torch.sort(rows, dim=1)
    scores, best = torch.sort(scores.gather(1, by_row), dim=1, descending=True, stable=True)
    return scores, rows.gather(1, best)


def _scan_chunks(
    embeddings: Float[Tensor, "n dim"],
    query: Float[Tensor, "bsz dim"],
    n_found: int,
    excluded: Int64[Tensor, "pairs 2"],
    hidden: Bool[Tensor, " n"] | None,
    size: int,
    starts: Iterator[int],
) -> Found:
    """Return the best rows of the chunks that begin at ``starts`` (ascending), rescored."""
    found = RunningTopk(len(query), n_found, query.device)
    wide = torch.empty((size, embeddings.shape[1]), device=query.device)
    scores = torch.empty((size, len(query)), device=query.device)
    for start in starts:
        chunk = embeddings[start : start + size]
        if chunk.dtype != torch.float32:
            chunk = wide[: len(chunk)].copy_(chunk)
        torch.mm(chunk, query.T, out=scores[: len(chunk)])
        scores[len(chunk) :] = -torch.inf
        if hidden is not None:
            scores[: len(chunk)].masked_fill_(hidden[start : start + size, None], -torch.inf)
        if len(excluded):
            limits = torch.tensor([start, start + size], device=query.device)
            low, high = torch.searchsorted(excluded[:, 0].contiguous(), limits).tolist()
            rows, queries = excluded[low:high].T
            scores[rows - start, queries] = -torch.inf
        found.add(scores, start)
    return _rescored(embeddings, query, *found.result())


def _chunk_rows(embeddings: Float[Tensor, "n dim"], bsz: int, n_found: int, threads: int) -> int:
    count, dim = embeddings.shape
    budget = CHUNK_BYTES.get(embeddings.device.type, CHUNK_BYTES["cuda"])
    rows = min(budget // (4 * (dim + bsz)), -(-count // threads))
    return -(-max(rows, n_found, BLOCK) // BLOCK) * BLOCK


def _rescored(
    embeddings: Float[Tensor, "n dim"],
    query: Float[Tensor, "bsz dim"],
    scores: Float[Tensor, "bsz n_found"],
    rows: Int64[Tensor, "bsz n_found"],
) -> tuple[Float[Tensor, "bsz n_found"], Int64[Tensor, "bsz n_found"]]:
    """Score the rows again in float64, where they stand; -inf stays -inf."""
    exact = scores.clone()
    for one, (vector, its_rows) in enumerate(zip(query.double(), rows, strict=True)):
        exact[one] = (embeddings[its_rows].double() @ vector).float()
    return torch.where(scores == -torch.inf, scores, exact), rows


def excluded_pairs(
    exclude_rows: Sequence[Sequence[int]] | None,
    bsz: int,
    count: int,
    topk: int,
    allowed_rows: Bool[Tensor, " n"] | None = None,
) -> Int64[Tensor, "pairs 2"]:
    """Return (row, query) pairs sorted by row, after checking that ``topk`` rows are left.

    Raises:
        InputError: an excluded row does not exist, a list or the mask is of another length, or a
            query has fewer than ``topk`` rows left.
    """
    if allowed_rows is not None and len(allowed_rows) != count:
        raise InputError(f"allowed_rows has {len(allowed_rows)} entries for {count} passages")
    if exclude_rows is not None and len(exclude_rows) != bsz:
        raise InputError(f"exclude_rows has {len(exclude_rows)} lists for {bsz} queries")
    allowed = count if allowed_rows is None else int(allowed_rows.sum())
    if topk > allowed:
        raise InputError(
            f"topk={topk}, but {allowed} of {count} passages are neither deleted nor filtered "
            "out; lower topk or filter less"
        )
    if exclude_rows is None:
        return torch.empty((0, 2), dtype=torch.int64)
    mask = None if allowed_rows is None else allowed_rows.cpu()
    for query, rows in enumerate(exclude_rows):
        _check_left(query, set(rows), count, allowed, topk, mask)
    pairs = [(row, query) for query, rows in enumerate(exclude_rows) for row in set(rows)]
    return torch.tensor(sorted(pairs), dtype=torch.int64).reshape(-1, 2)


def _check_left(
    query: int,
    excluded: set[int],
    count: int,
    allowed: int,
    topk: int,
    mask: Bool[Tensor, " n"] | None,
) -> None:
    outside = [row for row in excluded if not 0 <= row < count]
    if outside:
        raise InputError(
            f"query {query} excludes row {outside[0]}, but the index has rows 0 to {count - 1}"
        )
    taken = len(excluded) if mask is None else int(mask[sorted(excluded)].sum())
    if topk > allowed - taken:
        raise InputError(
            f"topk={topk}, but query {query} may only get {allowed - taken} passages: "
            f"the index holds {allowed} and {taken} are excluded; lower topk or "
            "exclude less"
        )


def check_queries(query: Float[Tensor, "bsz dim"], count: int, dim: int, topk: int) -> None:
    """Raise `InputError` unless the queries and ``topk`` suit an index of ``count`` rows."""
    if not 1 <= topk <= count:
        raise InputError(f"topk={topk}, but the index holds {count} passages; choose 1 to {count}")
    check_dim(query, dim, what="queries")
    finite = torch.isfinite(query).all(dim=1)
    if not bool(finite.all()):
        raise InputError(
            f"query embedding {int((~finite).nonzero()[0])} is not finite; the retriever has "
            "diverged or was given a damaged checkpoint"
        )
