"""Everything that decides how a run goes on: one `TrainState`, as tensors and as plain facts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from atlas_lm.runtime import distributed
from atlas_lm.runtime.errors import InputError, did_you_mean
from atlas_lm.staleness import AlwaysFresh, Freshness
from atlas_lm.training.batches import Batches
from atlas_lm.training.config import TrainingConfig
from atlas_lm.training.optim import MOMENTS
from atlas_lm.training.randomness import (
    random_facts,
    random_tensors,
    restore_random,
    seed_process,
)
from atlas_lm.training.rounds import SignalMemory
from atlas_lm.training.update import Optimizers, Trainable, make_optimizers
from atlas_lm.types import Example


@dataclass(frozen=True)
class Best:
    """The best step so far by one metric."""

    metric: str
    """As in ``training.best_metric``: a leading minus where less is better."""
    value: float
    """The metric's own value, without that sign."""
    step: int

    def is_beaten_by(self, value: float) -> bool:
        """Return whether a later value of the metric is better; equal is not."""
        return value < self.value if self.metric.startswith("-") else value > self.value


@dataclass
class TrainState:
    """Where a run stands. Restoring one and going on equals never having stopped."""

    model: Trainable
    optimizers: Optimizers
    batches: Batches
    freshness: Freshness = field(default_factory=AlwaysFresh)
    """Keeps the live index near the retriever, and holds what has become of it."""
    signals: SignalMemory = field(default_factory=SignalMemory)
    """What the reader made of passages that the retriever has yet to learn from."""
    step: int = 0
    """Updates made so far, skipped ones included."""
    skipped: int = 0
    """Updates skipped because a loss or gradient was not finite."""
    skipped_in_row: int = 0
    """Of these, the ones since the last good update."""
    best: Best | None = None
    """The best step by the run's metric; None where there is no metric or no value yet."""

    def note(self, metric: str, metrics: Mapping[str, float]) -> bool:
        """Return whether this step is the best so far by ``metric``, and remember it if so.

        ``metric`` is a name, with a leading minus where less is better; a value that is not finite
        is never the best.

        Raises:
            InputError: nothing of that name was measured.
        """
        name = metric.removeprefix("-")
        if name not in metrics:
            raise InputError(
                f"training.best_metric={metric!r}: not measured{did_you_mean(name, metrics)}; "
                f"there are {', '.join(sorted(metrics))}"
            )
        value = float(metrics[name])
        known = self.best if self.best and self.best.metric == metric else None
        if not math.isfinite(value) or (known and not known.is_beaten_by(value)):
            return False
        self.best = Best(metric, value, self.step)
        return True

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The halves, by name."""
        both = {"reader": self.model.reader, "retriever": self.model.retriever}
        return {name: module for name, module in both.items() if module is not None}

    def facts(self) -> dict[str, Any]:
        """Return all that is not a tensor, ready for JSON."""
        return {
            "step": self.step,
            "skipped": self.skipped,
            "skipped_in_row": self.skipped_in_row,
            "batches": self.batches.state,
            "freshness": self.freshness.facts(),
            "signals": self.signals.facts(),
            "random": random_facts(),
            "best": asdict(self.best) if self.best else None,
        }

    @property
    def is_sharded(self) -> bool:
        """Whether weights and moments lie in shares over the processes."""
        return any(
            distributed.is_sharded(tensor)
            for part in self.modules.values()
            for tensor in part.parameters()
        )

    def shares(self) -> dict[str, Tensor]:
        """Return weights (``model/``) and moments (``optimizer/``) as this process holds them."""
        halves = self.optimizers.halves
        parts = {
            "model": _joined({name: held(part) for name, part in self.modules.items()}),
            "optimizer": _joined({name: half.held() for name, half in halves.items()}),
        }
        return _joined(parts, "/")

    def places(self) -> dict[str, Tensor]:
        """Return what lies as `shares` would, moments that are not there yet included."""
        halves = self.optimizers.halves
        moments = {
            f"optimizer/{name}.{parameter}/{moment}": value
            for name, half in halves.items()
            for parameter, value in half.parameters.items()
            for moment in MOMENTS
        }
        weights = _joined({name: held(part) for name, part in self.modules.items()})
        return {f"model/{name}": value for name, value in weights.items()} | moments

    def tensors(
        self, *, whole: bool = True, with_index: bool = True, scratch: Path | None = None
    ) -> dict[str, dict[str, Tensor]]:
        """Return the tensors of each file: ``model``, ``optimizer``, ``random`` and ``index``.

        The first two are left out where ``whole`` is false: they are among the `shares`.

        ``index`` is there only if the index has been refreshed since the run began, and
        ``background`` only while a refresh runs beside the training, ``signals`` only within a
        round of ``signal_round`` steps. ``with_index`` and ``scratch`` as in `Freshness.tensors`.
        """
        return {
            **(self._whole() if whole else {}),
            "random": random_tensors(),
            **self.freshness.tensors(with_index=with_index, scratch=scratch),
            **self.signals.tensors(),
        }

    def _whole(self) -> dict[str, dict[str, Tensor]]:
        halves = self.optimizers.halves
        return {
            "model": _joined({name: weights(part) for name, part in self.modules.items()}),
            "optimizer": _joined({name: half.tensors() for name, half in halves.items()}),
        }

    def restore(self, facts: Mapping[str, Any], tensors: Mapping[str, dict[str, Tensor]]) -> None:
        """Become the state that `facts` and `tensors` were taken from.

        Raises:
            InputError: they belong to another model, other data or another index.
        """
        for name, part in self.modules.items():
            load_weights(part, part_of(tensors["model"], name), name)
        for name, half in self.optimizers.halves.items():
            half.restore(part_of(tensors["optimizer"], name))
        self.batches.restore(facts["batches"])
        self.freshness.restore(facts["freshness"], tensors)
        self.signals.restore(facts["signals"], tensors)
        for name in ("step", "skipped", "skipped_in_row"):
            setattr(self, name, facts[name])
        self.best = Best(**facts["best"]) if facts["best"] else None
        restore_random(facts["random"], tensors["random"], seed=self.batches.seed, step=self.step)


def new_state(
    model: Trainable,
    examples: Sequence[Example],
    config: TrainingConfig,
    *,
    freshness: Freshness | None = None,
) -> TrainState:
    """Return the state before the first update: everything seeded, dropout and memory set."""
    seed_process(config.seed)
    prepare(model, config)
    batches = Batches(examples, config.bsz, config.seed)
    return TrainState(model, make_optimizers(model, config), batches, freshness or AlwaysFresh())


def prepare(model: Trainable, config: TrainingConfig) -> None:
    """Set dropout and gradient checkpointing of both halves as the configuration says."""
    halves = {
        "reader": (model.reader, config.gradient_checkpointing_reader),
        "retriever": (model.retriever, config.gradient_checkpointing_retriever),
    }
    for module, checkpointing in halves.values():
        if module is None:
            continue
        if config.dropout is not None:
            module.set_dropout(config.dropout)
        if checkpointing:
            module.enable_gradient_checkpointing()


def weights(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters and saved buffers by name; one that has several names comes once.

    Collective where the module is sharded.
    """
    return {name: distributed.whole(tensor) for name, tensor in held(module).items()}


def held(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters and saved buffers as this process holds them, each once."""
    seen: set[int] = set()
    found = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            found[name] = tensor.detach()
    return found


@torch.no_grad()
def load_weights(module: nn.Module, saved: Mapping[str, Tensor], what: str) -> None:
    """Copy saved values into the module's own tensors; what is tied stays tied.

    Raises:
        InputError: a name or a shape differs.
    """
    own = held(module)
    if different := own.keys() ^ saved.keys():
        side = "the checkpoint" if min(different) in saved else "the model"
        raise InputError(
            f"resume: {what} tensor {min(different)!r} is only in {side}; resume with the same "
            "reader and retriever, tied or untied as before"
        )
    for name, tensor in own.items():
        if tensor.shape != saved[name].shape:
            raise InputError(
                f"resume: {what} tensor {name!r} has shape {list(saved[name].shape)} in the "
                f"checkpoint and {list(tensor.shape)} in the model"
            )
        tensor.copy_(distributed.placed_like(saved[name], tensor))


def _joined(parts: Mapping[str, Mapping[str, Tensor]], mark: str = ".") -> dict[str, Tensor]:
    return {
        f"{part}{mark}{name}": t for part, tensors in parts.items() for name, t in tensors.items()
    }


def part_of(tensors: Mapping[str, Tensor], part: str, mark: str = ".") -> dict[str, Tensor]:
    """Return the tensors whose names begin with ``part`` and ``mark``, without these."""
    prefix = f"{part}{mark}"
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
