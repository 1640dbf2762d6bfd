"""The machine that is planned for: this one, or one that is described."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What there is to run on."""

    ram_bytes: int
    """Memory."""
    gpu_bytes: int = 0
    """Memory of each GPU; 0 where there is none."""
    gpu_name: str = ""
    """What the GPU calls itself."""
    disk_bytes: int = 0
    """Free space where the index will be."""
    cores: int = 1
    """Threads that torch computes with."""


def this_machine(out: Path | None = None) -> Machine:
    """Return what this machine has; ``out`` says on which disk to look."""
    place = (out or Path.cwd()).resolve()
    while not place.exists():
        place = place.parent
    gpu = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
    return Machine(
        ram_bytes=_ram_bytes(),
        gpu_bytes=int(gpu.total_memory) if gpu else 0,
        gpu_name=str(gpu.name) if gpu else "",
        disk_bytes=shutil.disk_usage(place).free,
        cores=torch.get_num_threads(),
    )


def _ram_bytes() -> int:
    """Return the memory this process may use: the machine's, or its control group's limit."""
    try:
        ram = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # a system without sysconf
        return 0
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            ram = min(ram, int(Path(limit).read_text()))
        except (OSError, ValueError):
            continue
    return ram
