"""Steps of contrastive training that moved nothing, for their gradient was not finite."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from atlas_lm.runtime import distributed
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.logs import warn
from atlas_lm.runtime.skips import SKIPS_IN_ROW, named


@dataclass
class Skips:
    """How many there were. A resumed run counts on."""

    total: int = 0
    in_row: int = 0

    def note(self, step: int, names: Iterable[str]) -> None:
        """Count a step and say what it was made of. Collective.

        Args:
            step: Updates made so far, this one included.
            names: This process's share of its examples.
        """
        self.total += 1
        self.in_row += 1
        shown = named(distributed.in_order_of_ranks(names))
        warn(f"step {step}: the gradient is not finite, update skipped; examples: {shown}")

    @property
    def too_many(self) -> bool:
        """Whether the run must stop."""
        return self.in_row >= SKIPS_IN_ROW

    def stopped(self, step: int) -> InputError:
        """Return the error that ends a run whose checkpoint of ``step`` is written."""
        return InputError(
            f"step {step}: the gradients of {SKIPS_IN_ROW} steps in a row are not finite. --resume "
            f"goes on after them, with the weights of step {step - SKIPS_IN_ROW}, which are "
            "finite; otherwise lower fit.learning_rate, raise fit.warmup_steps or set "
            "fit.precision to fp32, and start anew in another directory"
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return what `restore` takes up; a run that was stopped begins a new row."""
        in_row = 0 if self.too_many else self.in_row
        return {"total": torch.tensor(self.total), "in_row": torch.tensor(in_row)}

    @classmethod
    def restore(cls, tensors: Mapping[str, Tensor]) -> Skips:
        """Return what `tensors` were made of."""
        return cls(**{name: int(value) for name, value in tensors.items()})
