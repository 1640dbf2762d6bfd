"""How a retriever learns from signals: hyper-parameters, and their choice on dev questions.

T_gold is a multiple of how far an objective's gold scores spread within a question (the median
standard deviation), because their units differ: nats, differences of nats, attention mass.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from atlas_lm.config import RunConfig
from atlas_lm.objectives import ObjectiveConfig, make_objective
from atlas_lm.runtime.logs import notice
from atlas_lm.training.rounds import SignalMemory

OBJECTIVES = ("adist", "pdist", "emdr2", "loop")


@dataclass(frozen=True)
class Learning:
    """Hyper-parameters of the retriever's passes over a round of signals."""

    gold_scale: float = 0.5
    """T_gold over the spread of the gold scores; without effect on emdr2."""
    temperature_score: float = 0.2
    epochs: int = 4
    lr_factor: float = 1.0
    """On the recipe's learning rates of the retriever."""
    floor: float | None = None
    """Nats; see `ObjectiveConfig.likelihood_floor`."""


AXES: dict[str, tuple[Any, ...]] = {
    "gold_scale": (0.125, 0.25, 0.5, 1.0, 2.0),
    "floor": (None, 4.0),
    "temperature_score": (0.1, 0.2, 0.4),
    "lr_factor": (0.5, 1.0, 2.0),
    "epochs": (2, 4, 8),
}
"""What is tried, one axis after another from the best so far."""
WITHOUT_EFFECT = {"emdr2": {"gold_scale"}, "adist": {"floor"}, "pdist": set(), "loop": set()}


def objective_config(name: str, memory: SignalMemory, learning: Learning) -> ObjectiveConfig:
    """Return the objective of a learning, its T_gold in the units of these signals."""
    plain = ObjectiveConfig(
        objective=name,
        temperature_score=learning.temperature_score,
        temperature_gold=1.0,
        likelihood_floor=None if name == "adist" else learning.floor,
    )
    if name == "emdr2":
        return plain
    spread = gold_spread(plain, memory)
    return dataclasses.replace(plain, temperature_gold=max(1e-6, learning.gold_scale * spread))


def gold_spread(config: ObjectiveConfig, memory: SignalMemory) -> float:
    """Return the median over questions of the standard deviation of the gold scores."""
    objective = make_objective(config)
    scores = [objective.gold_score(measured.signals).float() for measured in memory.gathered]
    return float(torch.cat([score.std(dim=-1) for score in scores]).median())


def run_config(config: RunConfig, learning: Learning, teaching_steps: int) -> RunConfig:
    """Return ``config`` with a learning's passes and rates, for so many steps of signals."""
    retriever = config.training.retriever
    factor = learning.lr_factor
    scaled = dataclasses.replace(
        retriever,
        lr=retriever.lr * factor,
        lr_of={name: lr * factor for name, lr in retriever.lr_of.items()},
    )
    training = dataclasses.replace(
        config.training,
        total_steps=config.training.freeze_retriever_steps + teaching_steps,
        signal_round=teaching_steps,
        signal_epochs=learning.epochs,
        retriever=scaled,
    )
    return dataclasses.replace(config, training=training)


def choose(
    name: str, score: Callable[[Learning], float], axes: Sequence[str] = tuple(AXES)
) -> tuple[Learning, list[dict[str, Any]]]:
    """Return the best learning of a search along one axis after another, and all that was tried."""
    best, tried = Learning(), []
    best_score = score(best)
    tried.append({**dataclasses.asdict(best), "score": best_score})
    for axis in axes:
        if axis in WITHOUT_EFFECT[name]:
            continue
        start = best
        for value in AXES[axis]:
            if value == getattr(start, axis):
                continue
            candidate = dataclasses.replace(start, **{axis: value})
            found = score(candidate)
            tried.append({**dataclasses.asdict(candidate), "score": found})
            if found > best_score:
                best, best_score = candidate, found
        notice(f"      {name}: {axis} {getattr(best, axis)}, score {100 * best_score:.1f}")
    return best, tried
