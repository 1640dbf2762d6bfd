"""Low-rank adapters on a half of the model (Hu et al. 2021, LoRA), through peft.

The adapters are put into the stock model in place, so reader and retriever work as before; what is
saved has them merged and opens with plain transformers. Checkpoints keep them apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from atlas_lm.runtime.errors import InputError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class LoRAConfig:
    """Adapters on one half; its own weights are then frozen."""

    rank: int = 0
    """Rank of each adapter's update; 0 for no adapters: the half itself is trained."""
    alpha: float = 16.0
    """The update is scaled by alpha / rank."""
    dropout: float = 0.0
    """Dropout before each adapter; training.dropout, where given, overrules it."""
    targets: tuple[str, ...] = ()
    """Names of the linear layers that get one, such as q and v; empty: all but the output head."""

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise InputError(f"lora.rank={self.rank}: give a number of at least 0")
        if not self.alpha > 0:
            raise InputError(f"lora.alpha={self.alpha}: give a number above 0")
        if not 0 <= self.dropout < 1:
            raise InputError(f"lora.dropout={self.dropout}: give a number in [0, 1)")
        if self.targets and not self.rank:
            raise InputError(
                f"lora.targets={list(self.targets)} has no effect with lora.rank=0; set a rank, "
                "such as 16, or leave it out"
            )


def add_lora(half: nn.Module, config: LoRAConfig, *, name: str, seed: int = 0) -> None:
    """Put adapters into a half, in place; after it only they are trained.

    Frozen layers get none. The model's outputs are what they were until the first update: B starts
    at zero.

    Args:
        half: The reader or the retriever; a frozen passage encoder gets no adapters.
        config: Rank and targets; nothing is done at rank 0.
        name: "reader" or "retriever".
        seed: Governs how the adapters are drawn, alike on all processes.

    Raises:
        InputError: peft is not installed, or a target is no linear layer of the half that learns.
    """
    if not config.rank:
        return
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise InputError(
            f"{name}.lora needs peft; install it with: pip install 'atlas-lm[lora]'"
        ) from error
    for model in _stock_models(half):
        lora = LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,  # type: ignore[arg-type]
            lora_dropout=config.dropout,
            target_modules=_targets(model, config.targets, name),
        )
        training = model.training
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            inject_adapter_in_model(lora, model)
        model.train(training)


def _stock_models(half: Any) -> Iterator[Any]:
    """Yield the stock models of a half that learn."""
    towers = getattr(half, "towers", None)
    models = [half.model] if towers is None else list(towers.values())
    for model in models:
        if any(parameter.requires_grad for parameter in model.parameters()):
            yield model


def _targets(model: Any, wanted: tuple[str, ...], name: str) -> list[str]:
    """Return the full names of the linear layers that get an adapter: those that learn."""
    head = model.get_output_embeddings()
    linear = [
        path
        for path, part in model.named_modules()
        if isinstance(part, nn.Linear) and part is not head and part.weight.requires_grad
    ]
    known = sorted({path.rpartition(".")[2] for path in linear})
    for one in wanted:
        if one not in known:
            raise InputError(
                f"{name}.lora.targets: no linear layer is called {one!r}"
                f"{did_you_mean(one, known)}; there are {', '.join(known)}"
            )
    found = [path for path in linear if not wanted or path.rpartition(".")[2] in wanted]
    if not found:
        raise InputError(f"{name}.lora: no linear layer of the {name} learns; leave it out")
    return found
