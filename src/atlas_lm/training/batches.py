"""The order of the training data: every epoch its own shuffle, resumable at any query."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from atlas_lm.runtime.errors import InputError
from atlas_lm.types import Batch, Example


class Batches:
    """Batches without end. Each holds ``bsz`` examples; one may span the seam of two epochs.

    Epoch e is the permutation drawn from (seed, e) alone, so the order does not depend on any
    other randomness and a position is one number.

    Raises:
        InputError: there are no examples.
    """

    def __init__(self, examples: Sequence[Example], bsz: int, seed: int) -> None:
        if not examples:
            raise InputError("no training examples; give a data file with at least one")
        self.examples = examples
        self.bsz = bsz
        self.seed = seed
        self.position = 0
        """Examples handed out so far, over all epochs."""
        self._epoch = -1
        self._order = np.empty(0, dtype=np.int64)

    @property
    def epoch(self) -> float:
        """Passes over the data so far."""
        return self.position / len(self.examples)

    def take(self, count: int) -> list[Batch]:
        """Return the next ``count`` batches."""
        return [next(self) for _ in range(count)]

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> Batch:
        chosen = tuple(self._example(self.position + offset) for offset in range(self.bsz))
        self.position += self.bsz
        return Batch(chosen)

    @property
    def state(self) -> dict[str, Any]:
        """What `restore` needs to go on with the very next example."""
        return {
            "position": self.position,
            "seed": self.seed,
            "examples": len(self.examples),
            "digest": self._digest(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go to a saved position.

        Raises:
            InputError: the data or the seed is not the one the position belongs to.
        """
        here = self.state
        for name in ("seed", "examples", "digest"):
            if state[name] != here[name]:
                raise InputError(
                    f"resume: the training data's {name} was {state[name]} and is {here[name]}; "
                    "resume with the same data file and the same training.seed"
                )
        self.position = int(state["position"])

    def _example(self, position: int) -> Example:
        epoch, place = divmod(position, len(self.examples))
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng((self.seed, epoch)).permutation(len(self.examples))
        return self.examples[int(self._order[place])]

    def _digest(self) -> str:
        ids = "\n".join(example.id for example in self.examples)
        return hashlib.sha256(ids.encode()).hexdigest()[:16]


def batches(examples: Sequence[Example], bsz: int, seed: int) -> Batches:
    """Return batches of ``bsz`` examples without end, in an order that ``seed`` decides."""
    return Batches(examples, bsz, seed)
