"""What each of several gloo processes does in the tests of the sharded index."""

from __future__ import annotations

import datetime
import multiprocessing
import os
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_processes(work: Callable, size: int, directory: Path, *args: object) -> list[object]:
    """Return what ``work(rank, size, directory, *args)`` returned on each of ``size`` processes."""
    meeting = directory / f"meeting-{size}-{work.__name__}"
    meeting.unlink(missing_ok=True)
    multiprocessing.set_forkserver_preload(["atlas_lm.index.sharded", work.__module__])
    arguments = (work, size, str(meeting), directory, args)
    mp.start_processes(_process, arguments, nprocs=size, start_method="forkserver")
    results = []
    for rank in range(size):
        results.append(torch.load(directory / f"result-{rank}.pt", weights_only=True))
    return results


def _process(
    rank: int, work: Callable, size: int, meeting: str, directory: Path, args: tuple
) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{meeting}",
        rank=rank,
        world_size=size,
        timeout=datetime.timedelta(seconds=60),
    )
    try:
        result = work(rank, size, directory, *args)
        torch.save(result, directory / f"result-{rank}.pt")
    except Exception:
        traceback.print_exc()
        raise
    finally:
        dist.destroy_process_group()
