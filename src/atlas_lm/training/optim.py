"""AdamW for each half of the model on its own: its learning rate, schedule and clipping."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from atlas_lm.runtime import distributed
from atlas_lm.runtime.errors import InputError
from atlas_lm.training.lr_schedule import Schedule, lr_multiplier

MOMENTS = ("exp_avg", "exp_avg_sq")
ADAM_STATE = ("step", *MOMENTS)


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How one half, reader or retriever, is updated."""

    lr: float = 1e-4
    """Peak learning rate."""
    lr_of: Mapping[str, float] = field(default_factory=dict)
    """Peak learning rates of the parameters whose name contains the key, in place of lr: norms,
    whose weights are near 1, may need larger steps than embeddings near 0.05."""
    schedule: Schedule = "linear"
    """constant, linear or cosine, after warm-up."""
    warmup_steps: int = 0
    """Updates over which the learning rate rises to its peak."""
    lr_floor: float = 0.1
    """Share of lr at which linear starts, and linear and cosine end."""
    weight_decay: float = 0.01
    """Decoupled weight decay of matrices; norms and biases have none."""
    beta1: float = 0.9
    """Decay of AdamW's running mean of gradients."""
    beta2: float = 0.999
    """Decay of AdamW's running mean of squared gradients."""
    eps: float = 1e-6
    """AdamW's epsilon."""
    max_grad_norm: float = 1.0
    """Gradients of this half are scaled down to this L2 norm; 0 for no clipping."""

    def __post_init__(self) -> None:
        for name in ("lr", "weight_decay", "max_grad_norm", "warmup_steps"):
            if not (getattr(self, name) >= 0 and math.isfinite(getattr(self, name))):
                raise InputError(f"{name}={getattr(self, name)}: give a number of at least 0")
        for part, lr in self.lr_of.items():
            if not (lr >= 0 and math.isfinite(lr)):
                raise InputError(f"lr_of.{part}={lr}: give a number of at least 0")
        for name in ("beta1", "beta2", "lr_floor"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}: give a number in [0, 1)")
        if not self.eps > 0:
            raise InputError(f"eps={self.eps}: give a positive number, such as 1e-6")
        if self.schedule not in ("constant", "linear", "cosine"):
            raise InputError(
                f"schedule={self.schedule!r}: choose one of constant, linear or cosine"
            )


class HalfOptimizer:
    """AdamW over the trainable parameters of one half, in float32.

    Args:
        module: The reader or the retriever. Parameters without ``requires_grad`` are left out.
        config: How it is updated.
        total_steps: The run's length, where the schedule ends.
        starts_at: The step of this half's first update; its schedule begins there.
    """

    def __init__(
        self, module: nn.Module, config: OptimConfig, *, total_steps: int, starts_at: int = 0
    ) -> None:
        self.config = config
        self.total_steps = total_steps
        self.starts_at = starts_at
        self.parameters = {
            name: parameter
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }
        if not self.parameters:
            raise InputError("nothing to train: every parameter of this half is frozen")
        self.adamw = torch.optim.AdamW(
            _groups(self.parameters, config),
            lr=config.lr,
            betas=(config.beta1, config.beta2),
            eps=config.eps,
        )

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of the update that is number ``step`` of the run."""
        return self.config.lr * self._multiplier(step)

    def _multiplier(self, step: int) -> float:
        return lr_multiplier(
            self.config.schedule,
            max(step - self.starts_at, 0),
            warmup_steps=self.config.warmup_steps,
            total_steps=self.total_steps - self.starts_at,
            floor=self.config.lr_floor,
        )

    def scale_gradients(self, factor: float) -> None:
        """Multiply every gradient by ``factor``."""
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        if gradients:
            torch._foreach_mul_(gradients, factor)

    def clip_gradients(self) -> float:
        """Scale the gradients down to ``max_grad_norm`` and return their norm before that."""
        limit = self.config.max_grad_norm or math.inf
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), limit)
        return float(distributed.whole(norm))

    def update(self, step: int) -> None:
        """Move the parameters by their gradients, at the learning rates of ``step``."""
        for group in self.adamw.param_groups:
            group["lr"] = group["peak_lr"] * self._multiplier(step)
        self.adamw.step()

    def drop_gradients(self) -> None:
        """Forget every gradient."""
        self.adamw.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, Tensor]:
        """Return AdamW's moments as ``parameter/moment``; empty before the first update.

        Collective where the parameters are sharded.
        """
        return {name: distributed.whole(tensor) for name, tensor in self.held().items()}

    def held(self) -> dict[str, Tensor]:
        """Return the same as this process holds them: where they are sharded, its shares."""
        return {
            f"{name}/{key}": self.adamw.state[parameter][key]
            for name, parameter in self.parameters.items()
            for key in ADAM_STATE
            if parameter in self.adamw.state
        }

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take up the moments that `tensors` returned.

        Raises:
            InputError: they belong to other parameters.
        """
        found = {key.rsplit("/", 1)[0] for key in tensors}
        if unknown := found - self.parameters.keys():
            raise InputError(
                f"optimizer state of {min(unknown)!r}, which is not trained here; resume with the "
                "same model and the same frozen parts"
            )
        self.adamw.state.clear()
        for name in sorted(found):
            parameter = self.parameters[name]
            moments = {key: tensors[f"{name}/{key}"].clone() for key in ADAM_STATE}
            self.adamw.state[parameter] = {
                key: value if key == "step" else distributed.placed_like(value, parameter)
                for key, value in moments.items()
            }


def _groups(parameters: Mapping[str, nn.Parameter], config: OptimConfig) -> list[dict[str, Any]]:
    """Return AdamW's groups: alike in peak learning rate and weight decay.

    Raises:
        InputError: a name in ``lr_of`` is part of no trained parameter's name.
    """
    for part in config.lr_of:
        if not any(part in name for name in parameters):
            raise InputError(
                f"lr_of.{part}: no trained parameter has {part!r} in its name; the names are "
                f"like {', '.join(list(parameters)[-3:])}"
            )
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        peak = next((lr for part, lr in config.lr_of.items() if part in name), config.lr)
        decay = config.weight_decay if parameter.dim() >= 2 else 0.0
        groups.setdefault((peak, decay), []).append(parameter)
    return [
        {"params": members, "peak_lr": peak, "weight_decay": decay}
        for (peak, decay), members in groups.items()
    ]
