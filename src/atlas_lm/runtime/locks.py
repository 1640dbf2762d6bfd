"""Files that one process holds: the kernel lets go of them when it dies, however it dies."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO


def try_lock(path: str | Path) -> BinaryIO | None:
    """Return the lock file, locked; None where another process, or another holder here, has it.

    Closing it lets go. A file left by a process that has died is taken over: what counts is the
    kernel's lock on it, no process id and no time.
    """
    path = Path(path)
    try:
        import fcntl
    except ImportError:  # not POSIX: holders must be kept apart by hand
        return open(path, "ab")
    while True:
        file = open(path, "ab")  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = os.fstat(file.fileno()).st_ino == os.stat(path).st_ino
        except BlockingIOError:
            file.close()
            return None
        except FileNotFoundError:
            ours = False
        if ours:
            return file
        file.close()  # its last owner removed it between our opening and locking it
