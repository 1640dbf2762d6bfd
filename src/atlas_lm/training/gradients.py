"""Which parts of a model learn: one update, looked at module by module."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from atlas_lm.training.config import TrainingConfig
from atlas_lm.training.update import Optimizers, Trainable, Update, update
from atlas_lm.types import Batch

LEAST = 1e-9
"""Of a module's norm: what moves by less does not learn."""
LAYER = re.compile(r"^(.*?\.(?:block|layer|layers|h|blocks)\.\d+)\.")


@dataclass(frozen=True, kw_only=True)
class ModuleGradient:
    """What one update did to one module of a half."""

    half: str
    """reader or retriever."""
    module: str
    """Its name: a layer of a stack, or an embedding, norm or head."""
    parameters: int
    """Numbers in it."""
    trained: int
    """Of these, the ones that an optimizer moves."""
    reached: int
    """Of these, the ones whose gradient was not zero."""
    gradient_norm: float
    """L2 norm of its gradient, of the summed loss."""
    update_norm: float
    """L2 norm of what the update added to it."""
    weight_norm: float
    """L2 norm of its parameters before."""

    @property
    def share(self) -> float:
        """Share of its parameters that a gradient reached."""
        return self.reached / max(self.parameters, 1)

    @property
    def learns(self) -> bool:
        """Whether a finite gradient reached it and it moved, by more than rounding."""
        moved = self.update_norm > LEAST * self.weight_norm
        return self.reached > 0 and math.isfinite(self.gradient_norm) and moved


@dataclass(frozen=True, kw_only=True)
class GradientReport:
    """What one update did."""

    modules: tuple[ModuleGradient, ...]
    done: Update

    def half(self, name: str) -> tuple[ModuleGradient, ...]:
        """Return the modules of one half."""
        return tuple(module for module in self.modules if module.half == name)

    def learns(self, name: str) -> bool:
        """Return whether any module of a half learns."""
        return any(module.learns for module in self.half(name))


def probe_update(
    model: Trainable,
    micro_batches: Sequence[Batch],
    optimizers: Optimizers,
    config: TrainingConfig,
    *,
    step: int,
) -> GradientReport:
    """Make one update of both halves and say what it did to every module."""
    halves = {"reader": model.reader, "retriever": model.retriever}
    parameters = {
        name: dict(half.named_parameters()) for name, half in halves.items() if half is not None
    }
    before = {
        name: {key: value.detach().clone() for key, value in half.items()}
        for name, half in parameters.items()
    }
    caught: dict[int, Tensor] = {}
    hooks = [
        value.register_post_accumulate_grad_hook(_catch(caught))
        for half in parameters.values()
        for value in half.values()
        if value.requires_grad
    ]
    try:
        done = update(model, micro_batches, optimizers, config, step=step, train_retriever=True)
    finally:
        for hook in hooks:
            hook.remove()
    moved = {id(p) for half in optimizers.halves.values() for p in half.parameters.values()}
    modules = [
        _module(name, module, keys, parameters[name], before[name], caught, moved)
        for name in parameters
        for module, keys in _grouped(parameters[name]).items()
    ]
    return GradientReport(modules=tuple(modules), done=done)


def _catch(caught: dict[int, Tensor]) -> Any:
    def keep(parameter: Tensor) -> None:
        if parameter.grad is not None:
            caught[id(parameter)] = parameter.grad.detach().clone()

    return keep


def _grouped(names: Iterable[str]) -> dict[str, list[str]]:
    """Return parameter names by module: a layer of a stack, else whatever holds the parameter."""
    groups: dict[str, list[str]] = {}
    for name in names:
        layer = LAYER.match(name)
        module = layer[1] if layer else name.rpartition(".")[0] or name
        groups.setdefault(module, []).append(name)
    return groups


def _module(
    half: str,
    module: str,
    keys: Sequence[str],
    parameters: Mapping[str, nn.Parameter],
    before: Mapping[str, Tensor],
    caught: Mapping[int, Tensor],
    moved: set[int],
) -> ModuleGradient:
    own = [parameters[key] for key in keys]
    gradients = [caught[id(parameter)] for parameter in own if id(parameter) in caught]
    return ModuleGradient(
        half=half,
        module=module,
        parameters=sum(p.numel() for p in own),
        trained=sum(p.numel() for p in own if id(p) in moved),
        reached=sum(int(torch.count_nonzero(gradient)) for gradient in gradients),
        gradient_norm=_norm(gradients),
        update_norm=_norm([parameters[key].detach() - before[key] for key in keys]),
        weight_norm=_norm([before[key] for key in keys]),
    )


def _norm(tensors: Sequence[Tensor]) -> float:
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in tensors))
