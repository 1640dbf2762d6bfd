"""The machine that is planned for: this one, or one that is described."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from atlas_lm.runtime.memory import usable_bytes


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
        ram_bytes=usable_bytes(),
        gpu_bytes=int(gpu.total_memory) if gpu else 0,
        gpu_name=str(gpu.name) if gpu else "",
        disk_bytes=shutil.disk_usage(place).free,
        cores=torch.get_num_threads(),
    )
