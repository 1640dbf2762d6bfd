"""How much memory there is, and sizes of memory as people write them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from atlas_lm.runtime.errors import InputError

_DECIMAL = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_GROUPS = Path("/proc/self/cgroup")
_ROOT = Path("/sys/fs/cgroup")


def parse_bytes(text: str) -> int:
    """Return the bytes of a size such as 16GB, 500MB, 1.5g or 16GiB.

    Raises:
        InputError: it is none, or it is nothing.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", text, re.IGNORECASE)
    unit = match[2].lower() if match else ""
    if match is None or (match[3] and not unit) or not float(match[1]):
        raise InputError(f"{text!r} is no size of memory; give a size such as 64GB, 80GiB or 500MB")
    return int(float(match[1]) * (_BINARY[unit] if match[3] else _DECIMAL[unit]))


def usable_bytes() -> int:
    """Return the memory this process may use: the machine's, or less by a control group's limit.

    Its own group's and those of the groups around it count, as SLURM and systemd set them. 0 where
    the system does not say.
    """
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # a system without sysconf
        return 0
    for limit in _limits():
        try:
            memory = min(memory, int(limit.read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return memory


def _limits() -> Iterator[Path]:
    """Yield the files that limit the control groups of this process, and the groups around them."""
    try:
        lines = _GROUPS.read_text().splitlines()
    except OSError:
        return
    for _, controllers, group in (line.split(":", 2) for line in lines):
        if controllers and "memory" not in controllers.split(","):
            continue
        root = _ROOT / "memory" if controllers else _ROOT
        own = root / group.lstrip("/")
        for place in (own, *own.parents):
            if place.is_relative_to(root):
                yield place / ("memory.limit_in_bytes" if controllers else "memory.max")
