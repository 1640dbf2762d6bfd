"""Activation checkpointing of a stock model: switched after loading, and asked whether it is on."""

from __future__ import annotations

from typing import Any

from torch import nn


def checkpoint_activations_(model: nn.Module, enabled: bool = True) -> None:
    """Recompute activations in the backward pass, or keep them."""
    stock: Any = model
    verb = "enable" if enabled else "disable"
    # The method's name from transformers 5.23 on, which deprecates the older one.
    renamed = getattr(stock, f"activation_checkpointing_{verb}", None)
    switch = renamed or getattr(stock, f"gradient_checkpointing_{verb}")
    switch(*([{"use_reentrant": False}] if enabled else []))


def recomputes_activations(model: nn.Module) -> bool:
    """Return whether a forward pass now would leave activations to be computed again."""
    return any(
        getattr(part, "gradient_checkpointing", False) and part.training for part in model.modules()
    )
