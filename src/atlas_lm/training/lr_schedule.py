"""The learning rate over the steps, as a multiple of ``lr``: never negative, never undefined."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["constant", "linear", "cosine"]


def lr_multiplier(
    schedule: Schedule, step: int, *, warmup_steps: int, total_steps: int, floor: float
) -> float:
    """Return what ``lr`` is multiplied by in the update that is number ``step``, from 0.

    With w = warmup_steps, r = floor and x = (step - w) / (total_steps - w), progress after warm-up:

        constant   step / w in warm-up, then 1
        linear     r + (1 - r) · step / w, then 1 - (1 - r) · x
        cosine     step / w in warm-up, then r + (1 - r) · cos(x · π / 2)

    Past ``total_steps`` linear falls on to 0 and cosine stays at ``floor``. Where warm-up lasts to
    the end, the step after it counts as one of progress.
    """
    if step < warmup_steps:
        warm = step / warmup_steps
        return floor + (1 - floor) * warm if schedule == "linear" else warm
    progress = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
    if schedule == "linear":
        return max(0.0, 1 - (1 - floor) * progress)
    if schedule == "cosine":
        return floor + (1 - floor) * math.cos(min(progress, 1.0) * math.pi / 2)
    return 1.0
