"""How this process was started: by ``torchrun``, by SLURM's ``srun``, or alone."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from atlas_lm.runtime.errors import InputError

PORTS = range(20000, 30000)
"""Where SLURM's processes meet, by job and step; ``MASTER_PORT`` overrules it."""
STRIDE = 1009
"""Ports between two steps of a job: far from those of jobs with numbers near by."""
GRACE = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"
"""Names how many seconds after SIGTERM or Ctrl-C ``torchrun`` kills its processes: 30 if unset."""
ENOUGH = "600"
"""Seconds in which a step and its checkpoint are surely done."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A process's place among those started with it, and where they meet."""

    rank: int
    size: int
    local_rank: int
    """Place among the processes of this machine: which GPU is its own."""
    address: str
    port: int

    def export(self) -> None:
        """Say the same in the variables that PyTorch reads."""
        os.environ |= {
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.size),
            "LOCAL_RANK": str(self.local_rank),
            "MASTER_ADDR": self.address,
            "MASTER_PORT": str(self.port),
        }


def launched(environment: Mapping[str, str] | None = None) -> Place | None:
    """Return this process's place; None where it was started alone.

    ``torchrun``'s variables come first; then SLURM's, which only a step of ``srun`` with more than
    one task sets: a batch script itself, or an interactive shell, is alone.

    Raises:
        InputError: a variable that should be there is not, or is no number.
    """
    env = os.environ if environment is None else environment
    if "WORLD_SIZE" in env and "RANK" in env:
        return Place(
            rank=_number(env, "RANK"),
            size=_number(env, "WORLD_SIZE"),
            local_rank=_number(env, "LOCAL_RANK", 0),
            address=env.get("MASTER_ADDR", "127.0.0.1"),
            port=_number(env, "MASTER_PORT", PORTS.start),
        )
    if _number(env, "SLURM_STEP_NUM_TASKS", 1) > 1:
        port = _number(env, "SLURM_JOB_ID", 0) + STRIDE * _number(env, "SLURM_STEP_ID", 0)
        nodes = env.get("SLURM_STEP_NODELIST", env.get("SLURM_JOB_NODELIST", "127.0.0.1"))
        return Place(
            rank=_number(env, "SLURM_PROCID"),
            size=_number(env, "SLURM_STEP_NUM_TASKS"),
            local_rank=_number(env, "SLURM_LOCALID", 0),
            address=env.get("MASTER_ADDR", first_host(nodes)),
            port=_number(env, "MASTER_PORT", PORTS[port % len(PORTS)]),
        )
    return None


def start_words(environment: Mapping[str, str] | None = None) -> list[str]:
    """Return the words before the verb that start as many processes as this one was started with.

    On several machines ``torchrun``'s must be given on each of them. Only what a launcher says of
    itself is known: what else ``srun`` was given comes from the job again.
    """
    env = os.environ if environment is None else environment
    place = launched(env)
    if place is None or place.size == 1:
        return ["atlas-lm"]
    if "TORCHELASTIC_RUN_ID" in env:
        nodes, each = (env.get(f"{group}_WORLD_SIZE", "1") for group in ("GROUP", "LOCAL"))
        many = ["--nnodes", nodes] if nodes != "1" else []
        meet = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{place.address}:29400"]
        own = ["--nproc-per-node", each, *meet * bool(many), "-m", "atlas_lm"]
        return [f"{GRACE}={env.get(GRACE, ENOUGH)}", "torchrun", *many, *own]
    if "SLURM_STEP_NUM_TASKS" in env:
        gpus = env.get("SLURM_GPUS_PER_NODE")
        shown = [f"--gpus-per-node={gpus}"] if gpus else []
        return ["srun", f"--ntasks={place.size}", *shown, "--kill-on-bad-exit=1", "atlas-lm"]
    return ["atlas-lm"]


def short_grace(environment: Mapping[str, str] | None = None) -> str:
    """Return what to say where ``torchrun`` may kill a run that it stops; empty where all is well.

    How long it waits is seen by its variable alone, not where its option gives it.
    """
    env = os.environ if environment is None else environment
    if "TORCHELASTIC_RUN_ID" not in env or GRACE in env:
        return ""
    return (
        "torchrun kills a run 30 seconds after SIGTERM or Ctrl-C, without checkpoint where a step "
        f"and its saving take longer; set {GRACE}={ENOUGH} before it"
    )


def first_host(nodes: str) -> str:
    """Return the first host of SLURM's list of nodes, such as ``gpu[003-007,12],login``."""
    match = re.match(r"([^\[,]+)(?:\[([^\]\-,]+)[^\]]*\])?", nodes)
    return "127.0.0.1" if match is None else match.group(1) + (match.group(2) or "")


def _number(env: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = env.get(name)
    if text is None and default is not None:
        return default
    if text is None or not text.isdecimal():
        raise InputError(f"environment variable {name}={text!r}: the launcher should set a number")
    return int(text)
