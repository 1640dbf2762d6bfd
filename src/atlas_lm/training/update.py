"""One update of both halves: accumulate sums, divide once, clip, step.

The reader's gradient is that of its loss per target token of the whole update, the retriever's
that of its loss per query of the whole update, however the queries were split into micro-batches.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from atlas_lm.training.config import TrainingConfig
from atlas_lm.training.optim import HalfOptimizer
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

    def losses(self, batch: Batch, *, train_retriever: bool) -> Losses:
        """Return both halves' losses as sums with their counts."""
        ...

    def measure(self, batch: Batch) -> Losses:
        """Return the reader's loss, and its signals as ``measured``."""
        ...

    def retriever_loss(self, measured: Measured) -> tuple[Tensor, dict[str, float]]:
        """Return the retriever's loss on measured signals and its metrics, sums over queries."""
        ...


@dataclass(frozen=True)
class Optimizers:
    """One optimizer for each half."""

    reader: HalfOptimizer
    retriever: HalfOptimizer | None

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
    """Return one optimizer for each half; the retriever's schedule counts its own updates."""
    reader = HalfOptimizer(model.reader, config.reader, total_steps=config.total_steps)
    if model.retriever is None or config.freeze_retriever_steps >= config.total_steps:
        return Optimizers(reader, None)
    at_once = config.signal_round == 1
    retriever = HalfOptimizer(
        model.retriever,
        config.retriever,
        total_steps=config.total_steps if at_once else config.retriever_updates,
        starts_at=config.freeze_retriever_steps if at_once else 0,
    )
    return Optimizers(reader, retriever)


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


@dataclass
class _Tally:
    """Sums over the micro-batches of one update."""

    reader_total: float = 0.0
    retriever_total: float = 0.0
    tokens: int = 0
    queries: int = 0
    sums: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    retrieved: list[tuple[Sequence[str], Tensor | None]] = field(default_factory=list)
    measured: list[Measured] = field(default_factory=list)

    def add(self, batch: Batch, losses: Losses) -> None:
        self.reader_total += losses.reader.total.item()
        self.tokens += losses.reader.tokens
        self.queries += losses.queries
        if losses.retriever_total is not None:
            self.retriever_total += losses.retriever_total.item()
        for name, value in losses.metrics.items():
            self.sums[name] += value
        self.retrieved.append((batch.ids, losses.rows))
        if losses.measured is not None:
            self.measured.append(losses.measured)


def update(
    model: Trainable,
    micro_batches: Sequence[Batch],
    optimizers: Optimizers,
    config: TrainingConfig,
    *,
    step: int,
    train_retriever: bool,
) -> Update:
    """Update both halves by the gradient over all micro-batches; say what was measured.

    Metrics: ``reader_loss`` (nats per target token), ``retriever_loss`` and what the model adds
    (such as ``kl``; means over queries), ``grad_norm_*`` before clipping, ``lr_*``,
    ``tokens_per_second`` (target tokens) and ``queries_per_second``.

    Where a loss or a gradient is not finite nothing is updated, and ``skipped`` names the examples.
    """
    started = time.perf_counter()
    optimizers.drop_gradients()
    model.reader.train()
    if model.retriever is not None:
        model.retriever.train()
    gathers = train_retriever and config.signal_round > 1
    tally = _Tally()
    for batch in micro_batches:
        with autocast(model.reader, config):
            if gathers:
                losses = model.measure(batch)
            else:
                losses = model.losses(batch, train_retriever=train_retriever)
        tally.add(batch, losses)
        if not _backward(losses):
            return _skip(optimizers, tally, [batch])
    trained = _trained(optimizers, train_retriever and not gathers)
    optimizers.reader.scale_gradients(config.reader_loss_weight / max(tally.tokens, 1))
    if "retriever" in trained:
        trained["retriever"].scale_gradients(config.retriever_loss_weight / tally.queries)
    norms = {name: half.clip_gradients() for name, half in trained.items()}
    if not all(map(math.isfinite, norms.values())):
        return _skip(optimizers, tally, micro_batches)
    for half in trained.values():
        half.update(step)
    optimizers.drop_gradients()
    metrics = _metrics(tally, trained, norms, step=step, seconds=time.perf_counter() - started)
    return Update(
        metrics, tuple(tally.retrieved), measured=tuple(tally.measured if gathers else ())
    )


def autocast(half: nn.Module, config: TrainingConfig) -> torch.autocast:
    """Return the autocast that the run's precision asks for, on the device of ``half``."""
    device = next(half.parameters()).device
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.precision == "bf16")


def _backward(losses: Losses) -> bool:
    """Add the gradient of both sums; return False, adding nothing, where one is not finite."""
    total = losses.reader.total
    if losses.retriever_total is not None:
        total = total + losses.retriever_total
    if not bool(torch.isfinite(total)):
        return False
    torch.autograd.backward(total)
    return True


def _trained(optimizers: Optimizers, train_retriever: bool) -> dict[str, HalfOptimizer]:
    return {
        name: half
        for name, half in optimizers.halves.items()
        if train_retriever or name != "retriever"
    }


def _skip(optimizers: Optimizers, tally: _Tally, guilty: Sequence[Batch]) -> Update:
    optimizers.drop_gradients()
    ids = tuple(example.id for batch in guilty for example in batch.examples)
    return Update({}, tuple(tally.retrieved), skipped=ids)


def _metrics(
    tally: _Tally,
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
