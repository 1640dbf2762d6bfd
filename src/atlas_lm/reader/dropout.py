"""Dropout of a stock model: set everywhere at once, and asked whether it is at work."""

from __future__ import annotations

from typing import Any

from torch import nn

from atlas_lm.runtime.errors import InputError


def set_dropout(model: Any, p: float) -> None:
    """Set every dropout probability, in the modules and in the configuration saved with them.

    Raises:
        InputError: ``p`` is not in [0, 1).
    """
    if not 0.0 <= p < 1.0:
        raise InputError(f"dropout={p}: expected a probability in [0, 1)")
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = p
        elif isinstance(getattr(module, "dropout", None), int | float):
            module.dropout = p
    for part in (model, model.get_encoder(), model.get_decoder()):
        part.config.dropout_rate = p


def dropout_is_active(model: nn.Module) -> bool:
    """Return whether a forward pass now would be random."""
    return any(
        module.training and module.p > 0
        for module in model.modules()
        if isinstance(module, nn.Dropout)
    )
