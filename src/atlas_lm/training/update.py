"""One update of both halves: accumulate sums, divide once, clip, step.

The reader's gradient is that of its loss per target token of the whole update, the retriever's
that of its loss per query of the whole update, however the queries were split into micro-batches
and over processes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from atlas_lm.runtime import distributed
from atlas_lm.runtime.phases import Phases, untimed
from atlas_lm.training.config import TrainingConfig
from atlas_lm.training.optim import HalfOptimizer
from atlas_lm.training.parallel import Alone, Parallel, make_parallel
from atlas_lm.training.tally import Tally
from atlas_lm.types import Batch, Losses, Measured


class Trainable(Protocol):
    """A model in two halves that can say how wrong both are."""

    @property
    def reader(self) -> Any:
        """The reader, an `nn.Module`."""
        ...

    @property
    def retriever(self) -> Any:
        """The retriever, an `nn.Module`; None where nothing is retrieved."""
        ...

    def losses(self, batch: Batch, *, train_retriever: bool, phases: Phases = untimed) -> Losses:
        """Return both halves' losses as sums with their counts."""
        ...

    def measure(self, batch: Batch, *, phases: Phases = untimed) -> Losses:
        """Return the reader's loss, and its signals as ``measured``."""
        ...

    def accompany(self, *, train_retriever: bool) -> Losses:
        """Take part, without a query, in what the other processes do together; return nothing."""
        ...

    def retriever_loss(self, measured: Measured) -> tuple[Tensor, dict[str, float]]:
        """Return the retriever's loss on measured signals and its metrics, sums over queries."""
        ...


@dataclass(frozen=True)
class Optimizers:
    """One optimizer for each half."""

    reader: HalfOptimizer
    retriever: HalfOptimizer | None
    parallel: Parallel = field(default_factory=Alone)
    """Adds up the gradients of all processes."""

    @property
    def halves(self) -> dict[str, HalfOptimizer]:
        """The halves that are trained, by name."""
        both = {"reader": self.reader, "retriever": self.retriever}
        return {name: half for name, half in both.items() if half is not None}

    def drop_gradients(self) -> None:
        """Forget every gradient of both halves."""
        for half in self.halves.values():
            half.drop_gradients()


def make_optimizers(model: Trainable, config: TrainingConfig) -> Optimizers:
    """Return one optimizer for each half; the retriever's schedule counts its own updates.

    Where several processes train, the halves are made ready for it first.

    Raises:
        InputError: see `parallel.make_parallel`.
    """
    learns = model.retriever is not None and config.freeze_retriever_steps < config.total_steps
    parallel = make_parallel(
        {"reader": model.reader} | ({"retriever": model.retriever} if learns else {}), config
    )
    reader = HalfOptimizer(model.reader, config.reader, total_steps=config.total_steps)
    if not learns:
        return Optimizers(reader, None, parallel)
    at_once = config.signal_round == 1
    retriever = HalfOptimizer(
        model.retriever,
        config.retriever,
        total_steps=config.total_steps if at_once else config.retriever_updates,
        starts_at=config.freeze_retriever_steps if at_once else 0,
    )
    return Optimizers(reader, retriever, parallel)


@dataclass(frozen=True)
class Update:
    """What became of one update."""

    metrics: dict[str, float]
    """Means over the update; see `update`."""
    retrieved: tuple[tuple[Sequence[str], Tensor | None], ...]
    """Example ids and the rows retrieved for them, one pair for each micro-batch."""
    skipped: tuple[str, ...] = ()
    """Ids of the examples whose loss or gradient was not finite; nothing was updated then."""
    measured: tuple[Measured, ...] = ()
    """What the reader made of each micro-batch's passages, where the retriever learns later."""


def update(
    model: Trainable,
    micro_batches: Sequence[Batch],
    optimizers: Optimizers,
    config: TrainingConfig,
    *,
    step: int,
    train_retriever: bool,
    phases: Phases = untimed,
) -> Update:
    """Update both halves by the gradient over all micro-batches; say what was measured.

    Metrics: ``reader_loss`` (nats per target token), ``retriever_loss`` and what the model adds
    (such as ``kl``; means over queries), ``grad_norm_*`` before clipping, ``lr_*``,
    ``tokens_per_second`` (target tokens) and ``queries_per_second``.

    Where a loss or a gradient is not finite nothing is updated, and ``skipped`` names the examples.
    Collective: every process brings its own micro-batches, as many as the others, some of them
    empty perhaps; metrics and ``skipped`` are those of all.
    """
    started = time.perf_counter()
    optimizers.drop_gradients()
    model.reader.train()
    if model.retriever is not None:
        model.retriever.train()
    gathers = train_retriever and config.signal_round > 1
    trained = _trained(optimizers, train_retriever and not gathers)
    own = Tally()
    for number, batch in enumerate(micro_batches, 1):
        work = _Work(model, batch, config, train_retriever=train_retriever, phases=phases)
        losses = optimizers.parallel.backward(
            trained, work, last=number == len(micro_batches), phases=phases
        )
        own.add(batch, losses)
        if own.guilty and distributed.world().size == 1:
            break
    with phases("update"):
        tally = own.of_all_processes()
        norms = None if tally.guilty else _step(optimizers, trained, tally, config, step)
    if norms is None:
        return _skip(optimizers, tally, tally.guilty or _all_ids(micro_batches))
    metrics = _metrics(tally, trained, norms, step=step, seconds=time.perf_counter() - started)
    return Update(metrics, tuple(tally.retrieved), measured=tuple(own.measured if gathers else ()))


def guilty_examples(
    model: Trainable,
    micro_batches: Sequence[Batch],
    config: TrainingConfig,
    *,
    train_retriever: bool,
) -> tuple[str, ...]:
    """Return the ids of the examples whose loss, alone and without dropout, is not finite.

    Nothing is learnt and no chance drawn; both halves are left in eval mode. Collective: every
    process brings the micro-batches of its update, and the ids are those of all.
    """
    for half in (model.reader, model.retriever):
        if half is not None:
            half.eval()
    own = [example for batch in micro_batches for example in batch.examples]
    most = int(distributed.gather_numbers([len(own)]).max())
    tally = Tally()
    with torch.no_grad():
        for number in range(most):
            alone = Batch(tuple(own[number : number + 1]))
            work = _Work(model, alone, config, train_retriever=train_retriever, phases=untimed)
            tally.add(alone, work()[1])
    return tuple(distributed.in_order_of_ranks(tally.guilty))


@dataclass(frozen=True)
class _Work:
    """One micro-batch's forward passes: called, it returns the summed loss and its parts."""

    model: Trainable
    batch: Batch
    config: TrainingConfig
    train_retriever: bool
    phases: Phases

    def __call__(self) -> tuple[Tensor, Losses]:
        """Read the batch, and have the retriever score it where it learns at once."""
        with autocast(self.model.reader, self.config):
            losses = self._losses()
        total = losses.reader.total
        return total if losses.retriever_total is None else total + losses.retriever_total, losses

    def _losses(self) -> Losses:
        if not len(self.batch):
            return self.model.accompany(train_retriever=self.train_retriever)
        if self.train_retriever and self.config.signal_round > 1:
            return self.model.measure(self.batch, phases=self.phases)
        return self.model.losses(
            self.batch, train_retriever=self.train_retriever, phases=self.phases
        )


def _step(
    optimizers: Optimizers,
    trained: dict[str, HalfOptimizer],
    tally: Tally,
    config: TrainingConfig,
    step: int,
) -> dict[str, float] | None:
    """Divide, clip and move both halves; return the norms, or None where one is not finite."""
    factor = optimizers.parallel.gradient_factor
    reader_scale = config.reader_loss_weight * factor / max(tally.tokens, 1)
    trained["reader"].scale_gradients(reader_scale)
    if "retriever" in trained:
        scale = config.retriever_loss_weight * factor / tally.queries
        trained["retriever"].scale_gradients(scale)
    norms = {name: half.clip_gradients() for name, half in trained.items()}
    if not all(map(math.isfinite, norms.values())):
        return None
    for half in trained.values():
        half.update(step)
    optimizers.drop_gradients()
    return norms


def autocast(half: nn.Module, config: TrainingConfig) -> torch.autocast:
    """Return the autocast that the run's precision asks for, on the device of ``half``."""
    device = next(half.parameters()).device
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.precision == "bf16")


def _trained(optimizers: Optimizers, train_retriever: bool) -> dict[str, HalfOptimizer]:
    return {
        name: half
        for name, half in optimizers.halves.items()
        if train_retriever or name != "retriever"
    }


def _skip(optimizers: Optimizers, tally: Tally, guilty: Sequence[str]) -> Update:
    optimizers.drop_gradients()
    return Update({}, tuple(tally.retrieved), skipped=tuple(guilty))


def _all_ids(micro_batches: Sequence[Batch]) -> list[str]:
    """Return the ids of the update's examples on all processes. Collective."""
    return distributed.in_order_of_ranks(id for batch in micro_batches for id in batch.ids)


def _metrics(
    tally: Tally,
    trained: dict[str, HalfOptimizer],
    norms: dict[str, float],
    *,
    step: int,
    seconds: float,
) -> dict[str, float]:
    metrics = {"reader_loss": tally.reader_total / max(tally.tokens, 1)}
    if "retriever" in trained:
        metrics["retriever_loss"] = tally.retriever_total / tally.queries
    metrics |= {name: total / tally.queries for name, total in tally.sums.items()}
    metrics |= {f"grad_norm_{name}": norm for name, norm in norms.items()}
    metrics |= {f"lr_{name}": half.learning_rate(step) for name, half in trained.items()}
    metrics["tokens_per_second"] = tally.tokens / seconds
    metrics["queries_per_second"] = tally.queries / seconds
    return metrics
