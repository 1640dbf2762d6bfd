"""A module's weights as the stock model's own: whole where they are sharded, adapters merged."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from atlas_lm.runtime import distributed
from atlas_lm.runtime.files import atomic_directory


def plain_state(module: nn.Module) -> dict[str, Tensor]:
    """Return the state dict that the stock model, without adapters and whole, would have.

    Tensors with several names stay one tensor. Collective where the module is sharded.
    """
    made: dict[int, Tensor] = {}
    state: dict[str, Tensor] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) not in made:
            made[id(tensor)] = distributed.whole(tensor.detach())
        state[name] = made[id(tensor)]
    for name, layer in adapted_layers(module).items():
        state = _merged(state, name, layer)
    return state


def is_plain(module: nn.Module) -> bool:
    """Return whether the module's own state dict is `plain_state`."""
    sharded = any(distributed.is_sharded(parameter) for parameter in module.parameters())
    return not sharded and not adapted_layers(module)


def adapted_layers(module: nn.Module) -> dict[str, Any]:
    """Return the layers that peft has put in the place of stock ones, by name."""
    return {
        name: part
        for name, part in module.named_modules()
        if hasattr(part, "lora_A") and hasattr(part, "base_layer")
    }


def _merged(state: dict[str, Tensor], name: str, layer: Any) -> dict[str, Tensor]:
    """Return the state with one adapted layer's update added to its weight, under its old name.

    W + scaling x B A (Hu et al. 2021, LoRA, section 4.1), summed in float32.
    """
    own = f"{name}." if name else ""
    merged: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if not key.startswith(own):
            merged[key] = tensor
        elif key.startswith(f"{own}base_layer."):
            merged[own + key.removeprefix(f"{own}base_layer.")] = tensor
    weight = merged[f"{own}weight"]
    for adapter, scaling in layer.scaling.items():
        up = state[f"{own}lora_B.{adapter}.weight"].float()
        down = state[f"{own}lora_A.{adapter}.weight"].float()
        weight = (weight.float() + scaling * (up @ down)).to(weight.dtype)
    merged[f"{own}weight"] = weight
    return merged


@contextmanager
def directory_of_process_0(path: str | Path) -> Iterator[Path]:
    """Yield a directory that becomes ``path`` when it is whole; on other processes, a scratch one.

    They take part in gathering what is written and must not write it.
    """
    if distributed.world().is_main:
        with atomic_directory(path) as directory:
            yield directory
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield Path(scratch)


def save_stock_model(model: Any, path: str | Path) -> None:
    """Write a stock model as an ordinary transformers directory, adapters merged.

    Collective where the model is sharded; process 0 alone writes the weights then.
    """
    if is_plain(model) and distributed.world().is_main:
        model.save_pretrained(path)
    elif not is_plain(model):
        state = plain_state(model)
        main = distributed.world().is_main
        model.save_pretrained(path, state_dict=state, is_main_process=main)
