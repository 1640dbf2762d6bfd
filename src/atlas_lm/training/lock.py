"""One run at a time in a run directory."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from atlas_lm.runtime import distributed
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.locks import try_lock

NAME = ".running"


@contextmanager
def run_lock(out: str | Path) -> Iterator[None]:
    """Hold the run directory ``out``; whoever else asks for it meanwhile is refused.

    The claim ends with the process, also by a kill: what counts is the kernel's lock on the file
    ``.running``, whatever it says inside and whatever the clock says. Of several processes the
    first holds it for all.

    Raises:
        InputError: another process, or another run of this one, trains in this directory.
    """
    if not distributed.world().is_main:
        yield
        return
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    path = out / NAME
    file = try_lock(path)
    if file is None:
        raise InputError(
            f"{out}: another run is at work in this directory{_holder(path)}; wait until it has "
            "ended, stop it (Ctrl-C or SIGTERM saves a checkpoint), or choose another --out"
        )
    try:
        file.truncate(0)
        holder = {"process": os.getpid(), "host": socket.gethostname(), "since": time.ctime()}
        file.write(json.dumps(holder).encode())
        file.flush()
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()


def _holder(path: Path) -> str:
    """Return who says to hold the file; nothing where that cannot be read."""
    try:
        holder = json.loads(path.read_text("utf-8"))
        return f" (process {holder['process']} on {holder['host']}, since {holder['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
