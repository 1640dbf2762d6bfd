"""A reader that learns to read and then tells, in passing, what it makes of each passage.

In the quickstart's recipe all signals are gathered before the retriever learns from them, so the
reader of a joint run does not depend on the objective. One run of the library's own updates, which
measures all three signals, therefore serves every objective, with the very reader that each would
have had.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from atlas_lm.config import RunConfig
from atlas_lm.evaluation import has_answer
from atlas_lm.model import Atlas
from atlas_lm.objectives import ObjectiveConfig
from atlas_lm.objectives.control import dealt_out
from atlas_lm.runtime.logs import track
from atlas_lm.runtime.modes import evaluating
from atlas_lm.training import new_state
from atlas_lm.training.rounds import SignalMemory, learn_round
from atlas_lm.training.state import TrainState
from atlas_lm.training.update import make_optimizers, update
from atlas_lm.types import Batch, Example, Losses, Measured, ReaderSignals, Signal

EVERY_SIGNAL: frozenset[Signal] = frozenset(
    {"passage_log_likelihood", "leave_one_out", "attention_mass"}
)


NEEDS: dict[str, Signal] = {
    "pdist": "passage_log_likelihood",
    "emdr2": "passage_log_likelihood",
    "loop": "leave_one_out",
    "adist": "attention_mass",
}
"""The signal of each objective."""


class EverySignal:
    """A `training.update.Trainable` that measures the signals of several objectives at once."""

    def __init__(self, atlas: Atlas, signals: frozenset[Signal] = EVERY_SIGNAL) -> None:
        self.atlas = atlas
        self.signals = signals
        self.reader: Any = atlas.reader
        self.retriever: Any = atlas.retriever

    def losses(self, batch: Batch, **options: Any) -> Losses:
        return self.atlas.losses(batch, **options)

    def accompany(self, *, train_retriever: bool) -> Losses:
        return self.atlas.accompany(train_retriever=train_retriever)

    def retriever_loss(self, measured: Measured) -> tuple[Tensor, dict[str, float]]:
        return self.atlas.retriever_loss(measured)

    def measure(self, batch: Batch, **_: Any) -> Losses:
        """Return what `Atlas.measure` does, with all these signals."""
        context = self.atlas.config.context
        retrieved = self.atlas.retrieve(batch, context.retriever_n_context)
        inputs = self.reader.collate(batch.query, retrieved.passages)
        signals = every_signal(self.reader, inputs, batch, self.signals)
        loss = self.reader.loss(inputs.first(context.n_context), batch.target)
        measured = Measured(batch.ids, tuple(batch.query), retrieved.passages, signals)
        return Losses(loss, None, len(batch), rows=retrieved.rows, measured=measured)


def every_signal(
    reader: Any, inputs: Any, batch: Batch, signals: frozenset[Signal]
) -> ReaderSignals:
    """Return `Reader.signals`, by one encoding of the passages where the reader can."""
    with torch.no_grad(), evaluating(reader):
        reading = reader.read(inputs, batch.target, n_context=inputs.n_context, measure=signals)
    found: ReaderSignals = reading.signals
    return found


def teach(
    atlas: Atlas,
    examples: Sequence[Example],
    config: RunConfig,
    signals: frozenset[Signal] = EVERY_SIGNAL,
) -> SignalMemory:
    """Train the reader in place by the recipe; return the signals of its teaching steps."""
    training = config.training
    model = EverySignal(atlas, signals)
    state = new_state(model, examples, training)
    memory = SignalMemory()
    for step, batch in _batches(state, training.total_steps):
        done = update(
            model,
            [batch],
            state.optimizers,
            training,
            step=step,
            train_retriever=step >= training.freeze_retriever_steps,
        )
        memory.gathered += done.measured
    return memory


def train_reader(atlas: Atlas, examples: Sequence[Example], config: RunConfig) -> None:
    """Train the reader alone for as many steps as `teach` does, on what ``atlas`` is given."""
    training = dataclasses.replace(
        config.training, freeze_retriever_steps=config.training.total_steps
    )
    state = new_state(atlas, examples, training)
    for step, batch in _batches(state, training.total_steps):
        update(atlas, [batch], state.optimizers, training, step=step, train_retriever=False)


def untaught(
    atlas: Atlas,
    examples: Sequence[Example],
    config: RunConfig,
    needed: frozenset[Signal] = EVERY_SIGNAL,
) -> SignalMemory:
    """Return the signals of a reader that learns nothing, on what `teach` measures."""
    training = config.training
    state = new_state(atlas, examples, training)
    memory, reader = SignalMemory(), atlas.reader
    for step, batch in _batches(state, training.total_steps):
        if step < training.freeze_retriever_steps:
            continue
        retrieved = atlas.retrieve(batch, config.context.retriever_n_context)
        inputs = reader.collate(batch.query, retrieved.passages)
        signals = reader.signals(inputs, batch.target, needed)
        memory.gathered.append(Measured(batch.ids, tuple(batch.query), retrieved.passages, signals))
    return memory


def _batches(state: TrainState, steps: int) -> Iterator[tuple[int, Batch]]:
    for step in track(range(steps), "the reader"):
        yield step, state.batches.take(1)[0]


def oracle(memory: SignalMemory, examples: Sequence[Example]) -> SignalMemory:
    """Return signals in which a passage is worth 0 nats with an answer in it and -20 without."""
    answers = {example.id: example.answers for example in examples}
    gathered = []
    for measured in memory.gathered:
        worth = torch.tensor(
            [
                [
                    0.0 if has_answer(f"{p.heading}\n{p.text}", answers[id]) else -20.0
                    for p in passages
                ]
                for id, passages in zip(measured.ids, measured.passages, strict=True)
            ]
        )
        signals = ReaderSignals(torch.ones(len(worth), 1, dtype=torch.bool), worth[..., None])
        gathered.append(dataclasses.replace(measured, signals=signals))
    return SignalMemory(gathered)


def shuffled(memory: SignalMemory) -> SignalMemory:
    """Return the signals as `objective.shuffle_signals` deals them out."""
    return SignalMemory(
        [
            dataclasses.replace(measured, signals=dealt_out(measured.signals, measured.ids))
            for measured in memory.gathered
            if measured is not None
        ]
    )


def save_signals(path: Path, memory: SignalMemory) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: value.contiguous() for name, value in memory.tensors()["signals"].items()},
        path.with_suffix(".safetensors"),
    )
    path.with_suffix(".json").write_text(json.dumps(memory.facts()), "utf-8")


def load_signals(path: Path) -> SignalMemory:
    memory = SignalMemory()
    facts = json.loads(path.with_suffix(".json").read_text("utf-8"))
    memory.restore(facts, {"signals": load_file(path.with_suffix(".safetensors"))})
    return memory


def learn(
    atlas: Atlas, memory: SignalMemory, config: RunConfig, objective: ObjectiveConfig
) -> dict[str, float]:
    """Teach the retriever of ``atlas`` in place from signals; return the last pass's metrics."""
    config = dataclasses.replace(config, objective=objective)
    model = atlas.with_config(config.model)
    assert model.retriever is not None
    torch.manual_seed(config.training.seed)
    optimizer = make_optimizers(_RetrieverOnly(model), config.training).retriever
    assert optimizer is not None
    kept = SignalMemory(list(memory.gathered))
    return learn_round(_RetrieverOnly(model), kept, optimizer, config.training).metrics


class _RetrieverOnly(EverySignal):
    """A `Trainable` whose reader is a stand-in: nothing of it is updated."""

    def __init__(self, atlas: Atlas) -> None:
        self.atlas = atlas
        self.reader: Any = torch.nn.Linear(1, 1)
        self.retriever: Any = atlas.retriever
