"""Dropout and activation checkpointing of stock models, set after loading."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

_ATTRIBUTES = ("dropout", "attention_dropout")
"""Where transformers' attention keeps a probability as a plain number."""


def set_dropout_(module: nn.Module, p: float) -> None:
    """Set every dropout probability below ``module``, attention's included, to ``p``."""
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = p
        for name in _ATTRIBUTES:
            if isinstance(getattr(part, name, None), float):
                setattr(part, name, p)


def checkpoint_activations_(model: PreTrainedModel, enabled: bool) -> None:
    """Recompute activations in the backward pass, or keep them."""
    verb = "enable" if enabled else "disable"
    # The method's name from transformers 5.23 on, which deprecates the older one.
    renamed = getattr(model, f"activation_checkpointing_{verb}", None)
    switch = renamed or getattr(model, f"gradient_checkpointing_{verb}")
    switch(*([{"use_reentrant": False}] if enabled else []))
