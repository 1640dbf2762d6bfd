"""Dropout of a stock model: set everywhere at once, and asked whether it is at work."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from atlas_lm.runtime.errors import InputError

_ATTRIBUTES = (
    "dropout",
    "attention_dropout",
    "hidden_dropout",
    "activation_dropout",
    "residual_dropout",
    "embedding_dropout",
)
"""Where transformers' modules keep a probability as a plain number."""


def set_dropout_(model: nn.Module, p: float) -> None:
    """Set every dropout probability below ``model``, attention's included, to ``p``.

    Raises:
        InputError: ``p`` is not in [0, 1).
    """
    if not 0.0 <= p < 1.0:
        raise InputError(f"dropout={p}: expected a probability in [0, 1)")
    for module in model.modules():
        for name, _ in _rates(module):
            setattr(module, name, p)


def dropout_is_active(model: nn.Module) -> bool:
    """Return whether a forward pass now would be random."""
    return any(
        module.training and rate > 0 for module in model.modules() for _, rate in _rates(module)
    )


def _rates(module: nn.Module) -> Iterator[tuple[str, float]]:
    """Yield the dropout probabilities that a module itself holds, with their attributes' names."""
    names = ("p",) if isinstance(module, nn.Dropout) else _ATTRIBUTES
    for name in names:
        rate = getattr(module, name, None)
        if isinstance(rate, int | float):
            yield name, rate
