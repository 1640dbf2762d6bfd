"""Dropout of stock models, set after loading."""

from __future__ import annotations

from torch import nn

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
