"""One piece of work on several threads, each of which runs torch on itself alone.

A loop of many short operations, each spread over all cores, waits at every operation for the
slowest core; on a busy machine that wait is most of the time. Here threads meet once, at the end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Result = TypeVar("Result")


def on_threads(work: Callable[[], Result], count: int) -> list[Result]:
    """Return the results of ``work`` called once on each of ``count`` threads, without gradient.

    The caller's own number of torch threads is as before.
    """
    of_caller = torch.get_num_threads()
    ready = threading.Barrier(count + 1)

    def alone() -> Result:
        torch.get_num_threads()  # takes the default now, or the first operation would take it
        torch.set_num_threads(1)
        ready.wait()
        with torch.no_grad():
            return work()

    with ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(alone) for _ in range(count)]
        ready.wait()
        # A thread's own setting is also the default of threads yet to come: put that back at once.
        torch.set_num_threads(of_caller)
        return [future.result() for future in futures]
