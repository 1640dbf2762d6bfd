"""Activation checkpointing of stock models, set after loading."""

from __future__ import annotations

from transformers import PreTrainedModel


def checkpoint_activations_(model: PreTrainedModel, enabled: bool) -> None:
    """Recompute activations in the backward pass, or keep them."""
    verb = "enable" if enabled else "disable"
    # The method's name from transformers 5.23 on, which deprecates the older one.
    renamed = getattr(model, f"activation_checkpointing_{verb}", None)
    switch = renamed or getattr(model, f"gradient_checkpointing_{verb}")
    switch(*([{"use_reentrant": False}] if enabled else []))
