"""The planned index: its size, the share of a process, and where that is searched."""

from __future__ import annotations

from atlas_lm.index.size import IndexSize, index_size
from atlas_lm.planning.request import PlanRequest
from atlas_lm.planning.throughput import Throughput


def size_of(request: PlanRequest, rows: int) -> IndexSize:
    """Return the size of the planned index over some rows."""
    return index_size(
        request.index,
        rows=rows,
        dim=request.dim,
        keep_vectors=request.keep_vectors,
        dtype=request.dtype,
    )


def share_of(request: PlanRequest) -> IndexSize:
    """Return the size of what one process opens: its share, or the whole where none can be cut."""
    whole = size_of(request, request.passages)
    return size_of(request, request.rows_of_rank) if whole.divisible else whole


def bytes_on_gpu(request: PlanRequest, index: IndexSize) -> int:
    """Return the bytes of an index that a GPU holds; 0 where it is searched on the CPU."""
    return index.gpu_bytes if request.index_device == "cuda" else 0


def scan_seconds(request: PlanRequest, share: IndexSize, speed: Throughput) -> float:
    """Return the time of one search."""
    read = bytes_on_gpu(request, share) or share.hot_bytes * share.scanned_share
    return read / speed.scan_bytes
