"""Signals gathered over several steps, from which the retriever then learns more than once.

A signal costs a pass of the reader over K passages; an update of the retriever costs little. In
rounds of M steps the reader is updated at every step and what it makes of each question's passages
is kept; at the end of a round the retriever passes E times over all of it, in shuffled batches.
With EMDR² this is a generalised EM: the posteriors of many questions first, then the retriever's
maximisation. An update at every step sees each signal once, and its first ones rest on a handful
of questions.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atlas_lm.runtime.logs import track
from atlas_lm.training.config import TrainingConfig
from atlas_lm.training.optim import HalfOptimizer
from atlas_lm.training.update import Trainable, autocast
from atlas_lm.types import Measured, Passage, ReaderSignals


@dataclass
class SignalMemory:
    """The signals of the present round, one entry for each micro-batch, and the rounds done."""

    gathered: list[Measured] = field(default_factory=list)
    rounds: int = 0
    """Rounds that the retriever has learnt from."""

    def facts(self) -> dict[str, Any]:
        """Return all that is not a tensor, ready for JSON."""
        texts = [
            {
                "ids": measured.ids,
                "query": measured.query,
                "passages": [[_passage_facts(p) for p in row] for row in measured.passages],
            }
            for measured in self.gathered
        ]
        return {"rounds": self.rounds, "gathered": texts}

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Return the file ``signals``; nothing where nothing is gathered."""
        tensors = {
            f"{number}.{name}": value
            for number, measured in enumerate(self.gathered)
            for name, value in _signal_tensors(measured.signals).items()
        }
        return {"signals": tensors} if tensors else {}

    def restore(self, facts: Mapping[str, Any], tensors: Mapping[str, dict[str, Tensor]]) -> None:
        """Become the memory that `facts` and `tensors` were taken from."""
        self.rounds = facts["rounds"]
        saved = tensors.get("signals", {})
        names = [entry.name for entry in fields(ReaderSignals)]
        self.gathered = [
            Measured(
                tuple(texts["ids"]),
                tuple(texts["query"]),
                tuple(tuple(Passage(**p) for p in row) for row in texts["passages"]),
                ReaderSignals(**{name: saved.get(f"{number}.{name}") for name in names}),  # type: ignore[arg-type]
            )
            for number, texts in enumerate(facts["gathered"])
        ]


@dataclass(frozen=True)
class RoundResult:
    """What became of the retriever's passes over one round."""

    metrics: dict[str, float]
    """Means over the last pass: ``retriever_loss``, ``kl``, ...; ``retriever_updates`` so far."""
    skipped: tuple[str, ...] = ()
    """Ids of the examples of an update whose gradient was not finite; it was left out."""


def learn_round(
    model: Trainable, memory: SignalMemory, optimizer: HalfOptimizer, config: TrainingConfig
) -> RoundResult:
    """Update the retriever from the gathered signals, `signal_epochs` times over; forget them.

    One update's gradient is that of the loss per query of ``signal_batches`` micro-batches.
    """
    model.retriever.train()
    done = memory.rounds * config.updates_per_round
    skipped: list[str] = []
    sums: dict[str, float] = {}
    for epoch in track(range(config.signal_epochs), "the retriever learns from the round"):
        sums = defaultdict(float)
        for group in _shuffled(memory, config, epoch):
            queries = sum(len(measured.query) for measured in group)
            for name, value in _accumulate(model, group, config).items():
                sums[name] += value
            optimizer.scale_gradients(config.retriever_loss_weight / queries)
            norm = optimizer.clip_gradients()
            if math.isfinite(norm):
                optimizer.update(done)
                sums["grad_norm_retriever"] += norm * queries
            else:
                skipped += [id for measured in group for id in measured.ids]
            optimizer.drop_gradients()
            sums["queries"] += queries
            done += 1
    memory.gathered = []
    memory.rounds += 1
    total = sums.pop("queries")
    metrics = {name: value / total for name, value in sums.items()}
    metrics |= {"lr_retriever": optimizer.learning_rate(done - 1), "retriever_updates": float(done)}
    return RoundResult(metrics, tuple(skipped))


def _accumulate(
    model: Trainable, group: list[Measured], config: TrainingConfig
) -> dict[str, float]:
    """Add the gradient of the summed loss; return what is logged, as sums over queries."""
    sums: dict[str, float] = defaultdict(float)
    for measured in group:
        with autocast(model.retriever, config):
            total, metrics = model.retriever_loss(measured)
        torch.autograd.backward(total)
        sums["retriever_loss"] += total.item()
        for name, value in metrics.items():
            sums[name] += value
    return sums


def _shuffled(memory: SignalMemory, config: TrainingConfig, epoch: int) -> list[list[Measured]]:
    """Return the micro-batches in groups of ``signal_batches``, in the order of this pass."""
    order = np.random.default_rng((config.seed, memory.rounds, epoch)).permutation(
        len(memory.gathered)
    )
    entries = [memory.gathered[place] for place in order]
    size = config.signal_batches
    return [entries[start : start + size] for start in range(0, len(entries), size)]


def _passage_facts(passage: Passage) -> dict[str, str]:
    return {name: getattr(passage, name) for name in ("id", "text", "title", "section")}


def _signal_tensors(signals: ReaderSignals) -> dict[str, Tensor]:
    values = {entry.name: getattr(signals, entry.name) for entry in fields(signals)}
    return {name: value for name, value in values.items() if value is not None}
