"""``atlas-lm train`` in several processes, one of which may die, fail or hang in some phase."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from atlas_lm.cli import main
from atlas_lm.cli import train as train  # so that a preloaded server has imported it
from atlas_lm.index.sharded import ShardedIndex
from atlas_lm.staleness.live import LiveIndex
from atlas_lm.training.state import TrainState

PLACES = {
    "search": (ShardedIndex, "_searched", 4),
    "refresh": (LiveIndex, "_own", 1),
    "backward": (torch.autograd, "backward", 3),
    "save": (TrainState, "facts", 1),
}
"""Where each phase is struck, and at which call."""

SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGTERM, "hang": signal.SIGSTOP}


@dataclass(frozen=True)
class Ended:
    """How the processes of a run ended."""

    codes: list[int | None]
    """Exit codes by rank; negative for a signal; None for one that had not ended."""
    said: list[str]
    """What each wrote."""
    seconds: float
    """From the blow to the end of the last, where there was one."""


def run_together(
    arguments: list[str],
    scratch: Path,
    *,
    size: int = 2,
    strike: str = "",
    how: str = "kill",
    rank: int = -1,
) -> Ended:
    """Run ``atlas-lm`` in so many processes, as a launcher starts them; strike one of them.

    Args:
        arguments: of the command line.
        scratch: for what they write.
        size: processes.
        strike: the phase of `PLACES` in which a process dies; none where empty.
        how: "kill" by a signal that cannot be caught, "fail" with an error, "stop" as a
            scheduler asks for it, or "hang" until all others have ended.
        rank: of the process that is struck, from the end where negative.
    """
    struck = rank % size if strike else size
    scratch.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    workers = [
        context.Process(
            target=_work,
            args=(own, size, port, arguments, scratch, strike if own == struck else "", how),
        )
        for own in range(size)
    ]
    for worker in workers:
        worker.start()
    for own, worker in enumerate(workers):
        if how != "hang" or own != struck:
            worker.join(timeout=90)
    blow = scratch / "blow"
    seconds = time.time() - float(blow.read_text()) if blow.exists() else 0.0
    codes = [worker.exitcode for worker in workers]
    for worker in workers:
        worker.kill()
    said = [(scratch / f"said-{own}").read_text("utf-8") for own in range(size)]
    return Ended(codes, [" ".join(text.split()) for text in said], seconds)


def _work(
    rank: int,
    size: int,
    port: int,
    arguments: list[str],
    scratch: Path,
    strike: str,
    how: str,
) -> None:
    log = os.open(scratch / f"said-{rank}", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    torch.set_num_threads(1)
    if strike:
        _strike(strike, how, scratch / "blow")
    sys.exit(main(arguments))


def _strike(phase: str, how: str, blow: Path) -> None:
    owner, name, at = PLACES[phase]
    work = getattr(owner, name)
    calls = 0

    def dying(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        if calls == at:
            blow.write_text(str(time.time()))
            if how == "fail":
                raise ValueError(f"the {phase} is on fire")
            os.kill(os.getpid(), SIGNALS[how])
        return work(*args, **kwargs)

    setattr(owner, name, dying)
