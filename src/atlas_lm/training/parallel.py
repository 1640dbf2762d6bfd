"""How the gradient of one update becomes that of all processes: by DDP, by FSDP2, or not at all.

A step is not one module's forward: it retrieves, reads, asks the reader what it makes of each
passage without gradient, and scores with the retriever. So the engine is handed the step's *work*,
a function that returns the summed loss, and wraps what happens around it.

- `Alone`: the gradient is this process's.
- `Replicated`: `DistributedDataParallel` around a module that holds the halves that learn and
  whose forward is that work. Every process has whole copies.
- `Sharded`: `fully_shard` on the stock modules, in place; every block of layers is gathered when it
  first runs in a step, and parameters, gradients and moments lie in shares between the steps.

All sum over the processes what each has summed over its own queries: `update` divides once, by
the counts of all. Micro-batches before the last are not communicated.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import nullcontext
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.nn.parallel import DistributedDataParallel

from atlas_lm.runtime import distributed
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.phases import Phases, untimed
from atlas_lm.training.batches import are_even
from atlas_lm.training.config import FSDPConfig, TrainingConfig

Rest = TypeVar("Rest")
Work = Callable[[], tuple[Tensor, Rest]]
"""Returns a loss, summed over this process's queries, and whatever else came of it."""

# FSDP gives back what is gathered where one of these calls another, and the next to run must gather
# it again with the other processes: none may call another.
READER_METHODS = ("loss", "signals", "read", "score", "score_each", "generate", "attention_share")
RETRIEVER_METHODS = ("embed_queries", "embed_passages")


class Parallel(Protocol):
    """What adds up the gradients of all processes."""

    gradient_factor: float
    """What gradients must be multiplied by to be sums over all processes."""

    def backward(
        self,
        trained: Collection[str],
        work: Work[Rest],
        *,
        last: bool,
        phases: Phases = untimed,
    ) -> Rest:
        """Do the work, add its gradient, and return the rest of what it returns.

        Args:
            trained: The names of the halves that learn from it.
            work: What is done; collective operations inside are those of all processes.
            last: Whether the update's gradient is complete with it, and summed over processes.
            phases: Measures the backward pass.
        """
        ...


class Alone:
    """One process: nothing is added up."""

    gradient_factor = 1.0

    def backward(
        self,
        trained: Collection[str],
        work: Work[Rest],
        *,
        last: bool,
        phases: Phases = untimed,
    ) -> Rest:
        """Do the work and add its gradient."""
        loss, rest = work()
        if loss.requires_grad:
            with phases("backward"):
                torch.autograd.backward(loss)
        return rest


class _Step(nn.Module):
    """The halves that learn; its forward is whatever work it is handed."""

    def __init__(self, halves: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.halves = nn.ModuleDict(halves)

    def forward(self, work: Work[Rest]) -> tuple[Tensor, Callable[[], Rest]]:
        """Return the work's loss, with a gradient even where it has no query.

        Its rest is returned by a function, so that DDP does not search it for outputs to train.
        """
        loss, rest = work()
        if not loss.requires_grad:  # a process without queries: of nothing, the sum of no element
            anchor = min((p for p in self.parameters() if p.requires_grad), key=torch.numel)
            loss = loss + anchor.flatten()[:0].sum()
        return loss, lambda: rest


class Replicated:
    """`DistributedDataParallel`: every process has both halves whole.

    Args:
        halves: The modules that may learn, by name.
    """

    def __init__(self, halves: Mapping[str, nn.Module]) -> None:
        self.gradient_factor = float(distributed.world().size)  # DDP takes the mean
        self._halves = dict(halves)
        self._engines: dict[frozenset[str], DistributedDataParallel] = {}

    def backward(
        self,
        trained: Collection[str],
        work: Work[Rest],
        *,
        last: bool,
        phases: Phases = untimed,
    ) -> Rest:
        """Do the work inside DDP's forward, and its backward; communicate where it is the last."""
        engine = self._engine(frozenset(trained))
        with nullcontext() if last else engine.no_sync():
            loss, sealed = engine(work)
            with phases("backward"):
                torch.autograd.backward(loss)
        rest: Rest = sealed()
        return rest

    def _engine(self, trained: frozenset[str]) -> DistributedDataParallel:
        """Return DDP over just the halves that learn, so that no other's gradient travels."""
        if trained not in self._engines:
            for other in [known for known in self._engines if known & trained]:
                del self._engines[other]
            self._engines[trained] = DistributedDataParallel(
                _Step({name: self._halves[name] for name in sorted(trained)}),
                find_unused_parameters=True,
                gradient_as_bucket_view=True,
                **_without_buffers(),
            )
        return self._engines[trained]


class Sharded:
    """`fully_shard`: parameters, gradients and moments are shared out over the processes.

    Each block of the reader is gathered once in a step, when it first runs, and kept until its
    gradient is done: how often a block runs may differ between processes, where it reads in
    several runs. The retriever is gathered as a whole.

    Args:
        halves: The modules that may learn, by name; they are sharded in place.
        config: Precision and offload.
    """

    gradient_factor = 1.0

    def __init__(self, halves: Mapping[str, nn.Module], config: FSDPConfig) -> None:
        self._halves = dict(halves)
        # T5's blocks return views, which its stack does not write to.
        warnings.filterwarnings("ignore", message=".*returned a view tensor.*")
        for name, half in halves.items():
            blocks = list(outermost_blocks(half)) if name == "reader" else []
            place = next(half.parameters()).device.type
            mesh = init_device_mesh(place, (distributed.world().size,))
            for part in (*blocks, half):
                _shard_(part, mesh, config)
            for method in READER_METHODS if name == "reader" else RETRIEVER_METHODS:
                if hasattr(half, method):
                    register_fsdp_forward_method(half, method)

    def backward(
        self,
        trained: Collection[str],
        work: Work[Rest],
        *,
        last: bool,
        phases: Phases = untimed,
    ) -> Rest:
        """Do the work and its backward; scatter the summed gradient where it is the last."""
        for name in trained:
            half = self._halves[name]
            assert isinstance(half, FSDPModule)
            half.set_requires_gradient_sync(last)
        loss, rest = work()
        with phases("backward"):
            torch.autograd.backward(loss)
        return rest


def make_parallel(halves: Mapping[str, nn.Module], config: TrainingConfig) -> Parallel:
    """Return the engine that the configuration names; alone where no process group was started.

    Raises:
        InputError: several processes were started and ``training.parallel`` is "none", or they
            cannot share out the update's queries as FSDP needs it.
    """
    size = distributed.world().size
    if not distributed.is_started():
        return Alone()
    if config.parallel == "none":
        if size == 1:
            return Alone()
        raise InputError(
            f'training.parallel="none", but {size} processes were started; set it to "ddp" or '
            '"fsdp", or start one'
        )
    if config.parallel == "ddp":
        return Replicated(halves)
    if config.signal_round > 1:
        raise InputError(
            f'training.signal_round={config.signal_round} with training.parallel="fsdp": processes '
            'pass over different numbers of gathered signals, which fsdp cannot; take "ddp"'
        )
    if not are_even(config.accumulation_steps, config.bsz, size):
        raise InputError(
            f"training.accumulation_steps={config.accumulation_steps} batches of training.bsz="
            f"{config.bsz} queries cannot be divided over {size} processes into equally many parts "
            'each, as training.parallel="fsdp" needs it; change one of them (bsz a multiple of the '
            'processes always can), or take "ddp"'
        )
    return Sharded(halves, config.fsdp)


def outermost_blocks(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the members of the module lists that lie in no other list: a model's blocks."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from outermost_blocks(child)


def _shard_(module: nn.Module, mesh: DeviceMesh, config: FSDPConfig) -> None:
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if config.param_dtype == "bf16" else None,
        reduce_dtype=torch.float32 if config.reduce_dtype == "fp32" else torch.bfloat16,
    )
    offload = (
        CPUOffloadPolicy(pin_memory=torch.cuda.is_available())
        if config.cpu_offload
        else OffloadPolicy()
    )
    sharded = fully_shard(
        module,
        mesh=mesh,
        reshard_after_forward=False,
        mp_policy=policy,
        offload_policy=offload,
    )
    sharded.set_gradient_divide_factor(1.0)
    sharded.set_force_sum_reduction_for_comms(True)


def _without_buffers() -> dict[str, Any]:
    """Return what tells DDP to leave buffers alone: nothing of a stock model's changes."""
    known = inspect.signature(DistributedDataParallel).parameters
    return {
        "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False
    }


__all__ = ["Alone", "Parallel", "Replicated", "Sharded", "Work", "make_parallel"]
