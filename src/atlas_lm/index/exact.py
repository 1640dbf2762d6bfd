"""Exact search: score every row in chunks, or its code first, and rescore the best in float64."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from atlas_lm.index.first_pass import FirstPass
from atlas_lm.index.threads import on_threads
from atlas_lm.index.topk import BLOCK, RunningTopk
from atlas_lm.index.vectors import Vectors, scores_at
from atlas_lm.runtime.errors import InputError
from atlas_lm.types import SearchResult

CHUNK_BYTES = {"cpu": 8 << 20, "cuda": 1 << 30}
"""Memory for a thread's chunk, widened vectors and scores: in cache on CPU, large on a GPU."""
MARGIN = 16
"""Rows found beyond ``topk`` and rescored, so that rounding cannot push a row out."""
FIRST_PASS_FROM = 20_000
"""Vectors from which on codes are read first; fewer are scored in float32 at once."""
SURE = 6.0
"""Errors of a code by which the worst row kept must beat the best one not looked at."""
UNSURE_AT_ONCE = 64
"""Queries scanned again at once."""

Found = tuple[Float[Tensor, "bsz n_found"], Int64[Tensor, "bsz n_found"]]


@torch.no_grad()
def exact_search(
    vectors: Vectors,
    query_emb: Float[Tensor, "bsz dim"],
    topk: int,
    exclude_rows: Sequence[Sequence[int]] | None = None,
    *,
    allowed_rows: Bool[Tensor, " n"] | None = None,
    first_pass: FirstPass | None = None,
    rescored: int | None = None,
) -> SearchResult:
    """Return the ``topk`` rows of greatest inner product; see `FlatIndex.search`.

    Args:
        vectors: what is searched.
        query_emb: the queries.
        topk: rows per query.
        exclude_rows: for each query, rows it may not get.
        allowed_rows: True for the rows that any query may get.
        first_pass: codes of the same vectors, to be read first where that is faster.
        rescored: rows found by code that are rescored, and then the result is what it is; if
            None, a few hundred are, and queries where that may not be exact are scanned again.

    Raises:
        InputError: see `FlatIndex.search`.
    """
    query = query_emb.detach().to(vectors.device, torch.float32)
    check_queries(query, len(vectors), vectors.dim, topk)
    excluded = excluded_pairs(exclude_rows, len(query), len(vectors), topk, allowed_rows)
    excluded = excluded.to(query.device)
    hidden = None if allowed_rows is None else ~allowed_rows.to(query.device)
    n_found = n_rescored(topk) if rescored is None else max(rescored, topk + MARGIN)
    if first_pass is not None and uses_first_pass(len(vectors), n_found) and len(query):
        sure = rescored is None
        scores, rows = _two_passes(
            vectors, first_pass, query, topk, excluded, hidden, n_found=n_found, sure=sure
        )
    else:
        scores, rows = _scan(vectors, query, _wanted(vectors, topk), excluded, hidden)
    if not bool(torch.isfinite(scores[:, :topk]).all()):
        raise InputError("search: a score overflows float32; scale the embeddings down")
    return SearchResult(scores[:, :topk], rows[:, :topk])


def uses_first_pass(count: int, n_found: int) -> bool:
    """Return whether so many vectors are worth a first pass that finds ``n_found`` of them."""
    return count >= FIRST_PASS_FROM and n_found <= FIRST_PASS_FROM // 2


def n_rescored(topk: int) -> int:
    """Return how many rows found by code are rescored for ``topk`` rows."""
    return 2 * topk + 128


def _two_passes(
    vectors: Vectors,
    first_pass: FirstPass,
    query: Float[Tensor, "bsz dim"],
    topk: int,
    excluded: Int64[Tensor, "pairs 2"],
    hidden: Bool[Tensor, " n"] | None,
    *,
    n_found: int,
    sure: bool,
) -> Found:
    """Rescore what the codes find; if ``sure``, scan everything where that may not be exact.

    With f the worst score found by code, a row that was not found has a score of at most f plus
    the code's error. That error is estimated, per query, as the greater of the root mean square
    seen on the rescored rows and of what rounding to the largest step gives, |q| s / sqrt(12).
    Where the ``topk``-th rescored score is not `SURE` such errors above f, the codes cannot tell.
    """
    by_code, rows = first_pass.best(query, n_found, excluded, hidden)
    left = by_code > -torch.inf
    found = scores_at(vectors, query, rows).masked_fill_(~left, -torch.inf)
    wanted = _wanted(vectors, topk)
    scores, rows = (some[:, :wanted] for some in sort_found(found, rows))
    kth = scores[:, topk - 1]
    scores, rows = sort_found(*_rescored(vectors, query, scores, rows))
    if not sure:
        return scores, rows
    seen = torch.where(left, by_code - found, 0.0).square().sum(dim=1)
    rounding = query.norm(dim=1) * first_pass.largest_step / math.sqrt(12)
    error = torch.maximum((seen / left.sum(dim=1).clamp(min=1)).sqrt(), rounding)
    again = (~(kth > by_code[:, -1] + SURE * error)).nonzero()[:, 0]
    for start in range(0, len(again), UNSURE_AT_ONCE):
        some = again[start : start + UNSURE_AT_ONCE]
        its_excluded = _of_queries(excluded, some)
        scores[some], rows[some] = _scan(vectors, query[some], wanted, its_excluded, hidden)
    return scores, rows


def _of_queries(
    excluded: Int64[Tensor, "pairs 2"], queries: Int64[Tensor, " some"]
) -> Int64[Tensor, "fewer 2"]:
    """Return the pairs of some queries (ascending), which are numbered anew."""
    mine = excluded[torch.isin(excluded[:, 1], queries)]
    return torch.stack((mine[:, 0], torch.searchsorted(queries, mine[:, 1].contiguous())), dim=1)


def _wanted(vectors: Vectors, topk: int) -> int:
    return min(topk + MARGIN, len(vectors))


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
    vectors: Vectors,
    query: Float[Tensor, "bsz dim"],
    n_found: int,
    excluded: Int64[Tensor, "pairs 2"],
    hidden: Bool[Tensor, " n"] | None,
) -> Found:
    """Score all rows, a chunk at a time, on all threads; return the best, best first."""
    threads = torch.get_num_threads() if query.device.type == "cpu" else 1
    size = _chunk_rows(vectors, len(query), n_found, threads)
    starts = iter(range(0, len(vectors), size))
    taking = threading.Lock()

    def take() -> int | None:
        with taking:
            return next(starts, None)

    def scan_some() -> Found:
        return _scan_chunks(vectors, query, n_found, excluded, hidden, size, iter(take, None))

    threads = min(threads, -(-len(vectors) // size))
    parts = on_threads(scan_some, threads) if threads > 1 else [scan_some()]
    scores, rows = (torch.cat(part, dim=1) for part in zip(*parts, strict=True))
    scores, best = sort_found(scores, rows)
    return scores[:, :n_found], best[:, :n_found]


def sort_found(
    scores: Float[Tensor, "bsz found"], rows: Int64[Tensor, "bsz found"]
) -> tuple[Float[Tensor, "bsz found"], Int64[Tensor, "bsz found"]]:
    """Return what was found, the higher score first, then the lower row."""
    rows, by_row = torch.sort(rows, dim=1)
    scores, best = torch.sort(scores.gather(1, by_row), dim=1, descending=True, stable=True)
    return scores, rows.gather(1, best)


def _scan_chunks(
    vectors: Vectors,
    query: Float[Tensor, "bsz dim"],
    n_found: int,
    excluded: Int64[Tensor, "pairs 2"],
    hidden: Bool[Tensor, " n"] | None,
    size: int,
    starts: Iterator[int],
) -> Found:
    """Return the best rows of the chunks that begin at ``starts`` (ascending), rescored."""
    found = RunningTopk(len(query), n_found, query.device)
    wide = torch.empty((size, vectors.dim), device=query.device)
    scores = torch.empty((size, len(query)), device=query.device)
    for start in starts:
        chunk = vectors.chunk(start, start + size, wide)
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
    return _rescored(vectors, query, *found.result())


def _chunk_rows(vectors: Vectors, bsz: int, n_found: int, threads: int) -> int:
    budget = CHUNK_BYTES.get(vectors.device.type, CHUNK_BYTES["cuda"])
    rows = min(budget // (4 * (vectors.dim + bsz)), -(-len(vectors) // threads))
    return -(-max(rows, n_found, BLOCK) // BLOCK) * BLOCK


def _rescored(
    vectors: Vectors,
    query: Float[Tensor, "bsz dim"],
    scores: Float[Tensor, "bsz n_found"],
    rows: Int64[Tensor, "bsz n_found"],
) -> tuple[Float[Tensor, "bsz n_found"], Int64[Tensor, "bsz n_found"]]:
    """Score the rows again in float64, where they stand; -inf stays -inf."""
    exact = scores_at(vectors, query.double(), rows).float()
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
