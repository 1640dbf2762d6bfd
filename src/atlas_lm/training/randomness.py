"""The states of all random generators, of every process, for a checkpoint."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atlas_lm.runtime import distributed
from atlas_lm.runtime.seeds import seed_everything

PRIME = 1_000_003
"""What the seeds of neighbouring processes differ by."""


def seed_process(seed: int) -> None:
    """Seed everything: process 0 with ``seed``, so that it draws what one process alone draws."""
    seed_everything(seed + PRIME * distributed.world().rank)


def random_facts() -> dict[str, Any]:
    """Return the states of Python's and NumPy's generators, ready for JSON. Collective."""
    version, numbers, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    own = {
        "python": [version, list(numbers), gauss],
        "numpy": [kind, np.asarray(keys).tolist(), position, has_gauss, cached],
    }
    if distributed.world().size == 1:
        return own
    first, *others = distributed.gather_json(own)
    return {**first, "others": others}


def random_tensors() -> dict[str, Tensor]:
    """Return the states of torch's generators. Collective.

    ``cpu`` and ``cuda:0`` and so on, all devices; with several processes, which have a device each,
    those of process r > 0 as ``process-r/cpu`` and ``process-r/cuda``.
    """
    on_gpu = torch.cuda.is_available()
    states = {"cpu": torch.get_rng_state()}
    if distributed.world().size == 1:
        if on_gpu:
            every = torch.cuda.get_rng_state_all()
            states |= {f"cuda:{n}": state for n, state in enumerate(every)}
        return states
    gathered = {"cpu": distributed.gather(states["cpu"])}
    if on_gpu:
        gathered["cuda"] = distributed.gather(torch.cuda.get_rng_state())
    named = {}
    for name, parts in gathered.items():
        named["cuda:0" if name == "cuda" else name] = parts[0]
        named |= {f"process-{rank}/{name}": part for rank, part in enumerate(parts) if rank}
    return named


def restore_random(
    facts: Mapping[str, Any], tensors: Mapping[str, Tensor], *, seed: int = 0, step: int = 0
) -> None:
    """Put every generator of this process back to where it was; devices that are gone are left out.

    A process that did not exist is seeded by ``seed``, ``step`` and its rank.
    """
    rank = distributed.world().rank
    others = facts.get("others", [])
    if rank > len(others):
        seed_process(seed + step)
        return
    _restore_plain(others[rank - 1] if rank else facts)
    prefix = f"process-{rank}/" if rank else ""
    torch.set_rng_state(tensors[f"{prefix}cpu"])
    if not torch.cuda.is_available():
        return
    if rank:
        torch.cuda.set_rng_state(tensors[f"{prefix}cuda"])
        return
    for n in range(torch.cuda.device_count()):
        if f"cuda:{n}" in tensors:
            torch.cuda.set_rng_state(tensors[f"cuda:{n}"], n)


def _restore_plain(facts: Mapping[str, Any]) -> None:
    version, numbers, gauss = facts["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, position, has_gauss, cached = facts["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
