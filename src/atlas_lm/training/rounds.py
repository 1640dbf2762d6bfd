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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atlas_lm.runtime import distributed
from atlas_lm.runtime.logs import track
from atlas_lm.training.batches import Part
from atlas_lm.training.config import TrainingConfig
from atlas_lm.training.optim import HalfOptimizer
from atlas_lm.training.parallel import Alone, Parallel
from atlas_lm.training.signals import own_signals, signal_tensors, whole_signals
from atlas_lm.training.update import Trainable, autocast
from atlas_lm.types import Measured, Passage, ReaderSignals


@dataclass
class SignalMemory:
    """The signals of the present round, one entry for each micro-batch, and the rounds done.

    Of several processes each keeps what it has measured itself: its part of each micro-batch.
    """

    gathered: list[Measured | None] = field(default_factory=list)
    """None where this process has no part in a micro-batch."""
    rounds: int = 0
    """Rounds that the retriever has learnt from."""
    per_step: int = 1
    """Micro-batches of a step."""
    skipped_in_row: int = 0
    """Updates of the retriever that were left out since the last one that was made."""

    def gather(self, measured: Sequence[Measured], parts: Sequence[Part], per_step: int) -> None:
        """Keep what a step has measured.

        Args:
            measured: of each of this process's parts that is not empty, in order.
            parts: this process's parts of the step's micro-batches.
            per_step: how many micro-batches there are.
        """
        entries: list[Measured | None] = [None] * per_step
        own = iter(measured)
        for part in parts:
            if part.places:
                entries[part.batch] = next(own)
        self.gathered += entries
        self.per_step = per_step

    def facts(self) -> dict[str, Any]:
        """Return all that is not a tensor, ready for JSON. Collective."""
        texts = [
            {
                "ids": measured.ids,
                "query": measured.query,
                "passages": [[_passage_facts(p) for p in row] for row in measured.passages],
            }
            for measured in whole_signals(self.gathered)
        ]
        return {
            "rounds": self.rounds,
            "gathered": texts,
            "per_step": self.per_step,
            "skipped_in_row": self.skipped_in_row,
        }

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Return the file ``signals``; nothing where nothing is gathered. Collective."""
        tensors = {
            f"{number}.{name}": value
            for number, measured in enumerate(whole_signals(self.gathered))
            for name, value in signal_tensors(measured.signals).items()
        }
        return {"signals": tensors} if tensors else {}

    def restore(self, facts: Mapping[str, Any], tensors: Mapping[str, dict[str, Tensor]]) -> None:
        """Become the memory that `facts` and `tensors` were taken from.

        Several processes share it out, however many there were.
        """
        self.rounds = facts["rounds"]
        self.per_step = facts.get("per_step", 1)
        self.skipped_in_row = facts.get("skipped_in_row", 0)
        saved = tensors.get("signals", {})
        names = [entry.name for entry in fields(ReaderSignals)]
        whole = [
            Measured(
                tuple(texts["ids"]),
                tuple(texts["query"]),
                tuple(tuple(Passage(**p) for p in row) for row in texts["passages"]),
                ReaderSignals(**{name: saved.get(f"{number}.{name}") for name in names}),  # type: ignore[arg-type]
            )
            for number, texts in enumerate(facts["gathered"])
        ]
        self.gathered = own_signals(whole, self.per_step)


@dataclass(frozen=True)
class RoundResult:
    """What became of the retriever's passes over one round."""

    metrics: dict[str, float]
    """Means over the last pass: ``retriever_loss``, ``kl``, ...; ``retriever_updates`` so far."""
    skipped: tuple[str, ...] = ()
    """Ids of the examples of an update whose gradient was not finite; it was left out."""


def learn_round(
    model: Trainable,
    memory: SignalMemory,
    optimizer: HalfOptimizer,
    config: TrainingConfig,
    parallel: Parallel | None = None,
) -> RoundResult:
    """Update the retriever from the gathered signals, `signal_epochs` times over; forget them.

    One update's gradient is that of the loss per query of ``signal_batches`` micro-batches.
    Collective: every process brings its own parts of them, and ``parallel`` adds up.
    """
    parallel = parallel or Alone()
    model.retriever.train()
    done = memory.rounds * config.updates_per_round
    skipped: list[str] = []
    sums: dict[str, float] = {}
    for epoch in track(range(config.signal_epochs), "the retriever learns from the round"):
        sums = defaultdict(float)
        for group in _shuffled(memory, config, epoch):
            tally = _accumulate(model, group, config, parallel)
            queries = int(tally.pop("queries"))
            for name, value in tally.items():
                sums[name] += value
            scale = config.retriever_loss_weight * parallel.gradient_factor / queries
            optimizer.scale_gradients(scale)
            norm = optimizer.clip_gradients()
            if math.isfinite(norm):
                optimizer.update(done)
                memory.skipped_in_row = 0
                sums["grad_norm_retriever"] += norm * queries
            else:
                ids = (id for measured in group if measured for id in measured.ids)
                skipped += distributed.in_order_of_ranks(ids)
                memory.skipped_in_row += 1
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
    model: Trainable,
    group: Sequence[Measured | None],
    config: TrainingConfig,
    parallel: Parallel,
) -> dict[str, float]:
    """Add the gradient of the summed loss; return sums over the queries of all processes."""
    own = [measured for measured in group if measured is not None]
    sums: dict[str, float] = defaultdict(float)
    for number, measured in enumerate(own or [None], 1):
        work = partial(_scored, model, measured, config)
        loss, metrics = parallel.backward(("retriever",), work, last=number == max(len(own), 1))
        sums["queries"] += len(measured.query) if measured else 0
        for name, value in {**metrics, "retriever_loss": loss}.items():
            sums[name] += value
    total: dict[str, float] = defaultdict(float)
    for part in distributed.gather_json(sums):
        for name, value in part.items():
            total[name] += value
    return total


def _scored(
    model: Trainable, measured: Measured | None, config: TrainingConfig
) -> tuple[Tensor, tuple[float, dict[str, float]]]:
    """Return the summed loss; then its value and what is logged. Nothing: a loss of 0."""
    if measured is None:
        return torch.zeros((), device=next(model.retriever.parameters()).device), (0.0, {})
    with autocast(model.retriever, config):
        total, metrics = model.retriever_loss(measured)
    return total, (total.item(), metrics)


def _shuffled(
    memory: SignalMemory, config: TrainingConfig, epoch: int
) -> list[list[Measured | None]]:
    """Return the micro-batches in groups of ``signal_batches``, in the order of this pass."""
    order = np.random.default_rng((config.seed, memory.rounds, epoch)).permutation(
        len(memory.gathered)
    )
    entries = [memory.gathered[place] for place in order]
    size = config.signal_batches
    return [entries[start : start + size] for start in range(0, len(entries), size)]


def _passage_facts(passage: Passage) -> dict[str, str]:
    return {name: getattr(passage, name) for name in ("id", "text", "title", "section")}
