"""The loop of contrastive training: resumable, on one process or several, one seed for all of it.

Step t draws everything by chance (pairs, dropout) from (seed, t) alone. So a run that is resumed
at t goes on as if it had never stopped, and needs no generator's state to do so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from atlas_lm.retriever.contrastive_checkpoint import (
    PretrainCheckpoints,
    adam_tensors,
    restore_adam,
)
from atlas_lm.retriever.contrastive_shared import sum_gradients
from atlas_lm.retriever.contrastive_skips import Skips
from atlas_lm.runtime import distributed
from atlas_lm.runtime.errors import InputError


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How long and how fast a retriever is trained. One step is one optimizer update."""

    batch_size: int = 2048
    """Pairs or questions a step, over all processes."""
    steps: int = 500_000
    """Updates."""
    learning_rate: float = 5e-5
    """Peak learning rate of AdamW."""
    warmup_steps: int = 20_000
    """Updates in which the learning rate rises; then it falls linearly to 0."""
    weight_decay: float = 0.01
    """Decoupled weight decay of matrices; norms, biases and embeddings have none."""
    beta2: float = 0.98
    """Decay of AdamW's running mean of squared gradients."""
    eps: float = 1e-6
    """AdamW's epsilon."""
    grad_clip: float = 1.0
    """Largest norm of the gradient; 0 for no clipping."""
    dropout: float | None = None
    """Dropout probability; left out, the encoder keeps its own."""
    batch_tokens: int = 0
    """Padded tokens encoded at a time; 0 takes what suits the device."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    precision: str = "fp32"
    """fp32, or bf16 autocast with fp32 weights."""
    log_every: int = 10
    """Steps between lines of metrics."""
    save_every: int = 1000
    """Steps between checkpoints; 0 for one at the end (or when stopped) only."""
    keep_last: int = 2
    """Checkpoints kept."""
    seed: int = 0
    """Governs every draw."""

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 2), ("steps", 1), ("log_every", 1), ("keep_last", 1)):
            if getattr(self, name) < least:
                raise InputError(f"fit.{name}={getattr(self, name)}: give at least {least}")
        for name in ("warmup_steps", "save_every", "learning_rate", "weight_decay", "grad_clip"):
            if getattr(self, name) < 0:
                raise InputError(f"fit.{name}={getattr(self, name)}: must not be negative")
        if self.warmup_steps > self.steps:
            raise InputError(
                f"fit.warmup_steps={self.warmup_steps} is more than fit.steps={self.steps}; "
                "the peak would never be reached"
            )
        if self.precision not in ("fp32", "bf16"):
            raise InputError(f"fit.precision={self.precision!r}: choose fp32 or bf16")

    def learning_rate_at(self, step: int) -> float:
        """Return the rate of update ``step``: a linear rise, then a linear fall to 0."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        return self.learning_rate * (self.steps - step) / max(1, self.steps - self.warmup_steps)


class Learner(Protocol):
    """What is trained, and what one step asks of it."""

    @property
    def module(self) -> nn.Module:
        """What the optimizer moves."""
        ...

    def loss(self, step: int) -> tuple[Tensor, Mapping[str, float]]:
        """Return this process's share of the loss of a step, and its share of the metrics.

        The shares of all processes add up to the loss and the metrics of the global batch.
        """
        ...

    def names(self, step: int) -> Sequence[str]:
        """Return what this process's share of a step is made of, as messages name it."""
        ...

    def follow(self) -> None:
        """Do what follows an update, such as moving a momentum encoder."""
        ...

    def tensors(self) -> Mapping[str, Mapping[str, Tensor]]:
        """Return what a resumed run needs beside weights and optimizer."""
        ...

    def restore(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Take up what `tensors` returned."""
        ...


@dataclass(frozen=True)
class FitOutcome:
    """How a run ended."""

    step: int
    """Updates made so far."""
    finished: bool
    """False where it was asked to stop."""


def fit_resumably(
    learner: Learner,
    cfg: FitConfig,
    checkpoints: PretrainCheckpoints,
    *,
    log: Callable[[int, Mapping[str, float]], None],
    start: int = 0,
    stop: Callable[[], bool] = lambda: False,
) -> FitOutcome:
    """Train from step ``start`` to the end, or until ``stop`` says so on any process. Collective.

    Every ``save_every`` steps, and where it ends, there is a checkpoint; `resume_from` prepares a
    learner to go on from it. Process 0 alone writes and logs. A checkpoint from which no step was
    made is not written anew: a directory cannot be replaced at one stroke. A step whose gradient
    is not finite moves nothing; it is counted in ``skipped``, and its examples are named.

    Raises:
        InputError: the gradients of ten steps in a row were not finite; there is a checkpoint.
    """
    optimizer, step, saved = optimizer_of(learner, cfg), start, start or -1
    skips = Skips()
    if start:
        _, tensors = checkpoints.load()
        skips = Skips.restore(tensors.get("skips", {}))
        restore_adam(optimizer, parameters_of(learner), tensors["optimizer"])
    learner.module.train()
    while step < cfg.steps and not distributed.any_process(stop()):
        metrics = update(learner, optimizer, cfg, step)
        step += 1
        if math.isfinite(metrics["grad_norm"]):
            skips.in_row = 0
        else:
            skips.note(step, learner.names(step - 1))
        if step % cfg.log_every == 0 or step == cfg.steps:
            summed = _sum(metrics)
            if distributed.world().is_main:
                rate = cfg.learning_rate_at(step - 1)
                log(step, {**summed, "lr": rate, "skipped": float(skips.total)})
        if skips.too_many or (cfg.save_every and step % cfg.save_every == 0):
            _save(learner, optimizer, checkpoints, step, skips)
            saved = step
        if skips.too_many:
            raise skips.stopped(step)
    if saved != step:
        _save(learner, optimizer, checkpoints, step, skips)
    return FitOutcome(step, step >= cfg.steps)


def resume_from(learner: Learner, checkpoints: PretrainCheckpoints) -> int:
    """Give the learner the newest checkpoint's weights and return its step.

    Raises:
        InputError: there is no checkpoint, or it belongs to another recipe or model.
    """
    step, tensors = checkpoints.load()
    own = learner.module.state_dict()
    if different := own.keys() ^ tensors["model"].keys():
        raise InputError(f"resume: tensor {min(different)!r} is not in both model and checkpoint")
    learner.module.load_state_dict(tensors["model"])
    learner.restore(tensors)
    return step


def update(
    learner: Learner, optimizer: torch.optim.Optimizer, cfg: FitConfig, step: int
) -> Mapping[str, float]:
    """Make one update and return this process's share of the metrics. Collective.

    Where ``grad_norm`` is not finite, nothing was updated.
    """
    torch.manual_seed((cfg.seed * 1_000_003 + step) * 4096 + distributed.world().rank)
    for group in optimizer.param_groups:
        group["lr"] = cfg.learning_rate_at(step)
    optimizer.zero_grad(set_to_none=True)
    device = next(learner.module.parameters()).device.type
    with torch.autocast(device, dtype=torch.bfloat16, enabled=cfg.precision == "bf16"):
        loss, metrics = learner.loss(step)
    torch.autograd.backward(loss)
    trained = list(parameters_of(learner).values())
    sum_gradients(trained)
    norm = float(nn.utils.clip_grad_norm_(trained, cfg.grad_clip or math.inf))
    if math.isfinite(norm):
        optimizer.step()
        learner.follow()
    return {
        **metrics,
        "loss": float(loss.detach()),
        "grad_norm": norm / distributed.world().size,
    }


def parameters_of(learner: Learner) -> dict[str, nn.Parameter]:
    """Return the parameters that are trained, by name."""
    return {n: p for n, p in learner.module.named_parameters() if p.requires_grad}


def optimizer_of(learner: Learner, cfg: FitConfig) -> torch.optim.AdamW:
    """Return AdamW over what is trained, in `decay_groups`."""
    groups = decay_groups(parameters_of(learner).items(), cfg.weight_decay)
    return torch.optim.AdamW(groups, lr=cfg.learning_rate, betas=(0.9, cfg.beta2), eps=cfg.eps)


def decay_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]], weight_decay: float
) -> list[dict[str, Any]]:
    """Return AdamW's groups: matrices decay; embeddings, norms and biases do not."""
    decays: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in named_parameters:
        decays[parameter.ndim == 2 and "embeddings" not in name].append(parameter)
    return [
        {"params": members, "weight_decay": weight_decay if decay else 0.0}
        for decay, members in decays.items()
        if members
    ]


def _save(
    learner: Learner,
    optimizer: torch.optim.Optimizer,
    checkpoints: PretrainCheckpoints,
    step: int,
    skips: Skips,
) -> None:
    if distributed.world().is_main:
        checkpoints.save(
            step,
            {
                "model": learner.module.state_dict(),
                "optimizer": adam_tensors(optimizer, parameters_of(learner)),
                "skips": skips.tensors(),
                **learner.tensors(),
            },
        )
    distributed.barrier()


def _sum(metrics: Mapping[str, float]) -> dict[str, float]:
    values = torch.tensor(list(metrics.values()), dtype=torch.float64)
    distributed.add_up(values)
    return dict(zip(metrics, values.tolist(), strict=True))
