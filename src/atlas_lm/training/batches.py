"""The order of the training data: every epoch its own shuffle, resumable at any query.

The order belongs to the run and not to its processes: however many there are, an update takes the
next ``bsz`` x ``accumulation_steps`` examples, and the processes share these out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from atlas_lm.runtime import distributed
from atlas_lm.runtime.distributed import World
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.shuffle import Epochs
from atlas_lm.types import Batch, Example


@dataclass(frozen=True)
class Part:
    """What one process does of one batch of an update."""

    batch: int
    """Which batch of the update."""
    places: range
    """Which of the update's examples; none where this process only keeps the others company."""


def parts(count: int, bsz: int, world: World) -> list[Part]:
    """Return this process's part of an update of ``count`` batches of ``bsz``.

    Each process does a contiguous share of the examples, the sizes differ by one, in parts of at
    most ``bsz``; none reaches over two batches. All processes have the same number of parts.
    """
    shares = [
        _cut(World(rank=rank, size=world.size).share(count * bsz), bsz)
        for rank in range(world.size)
    ]
    own = shares[world.rank]
    idle = Part(0, range(0))
    return own + [idle] * (max(map(len, shares)) - len(own))


def are_even(count: int, bsz: int, size: int) -> bool:
    """Return whether each of ``size`` processes has as many parts, and none an empty one."""
    shares = [parts(count, bsz, World(rank=rank, size=size)) for rank in range(size)]
    return all(part.places for share in shares for part in share)


def _cut(share: range, bsz: int) -> list[Part]:
    ends = [*range((share.start // bsz + 1) * bsz, share.stop, bsz), share.stop]
    starts = [share.start, *ends[:-1]]
    return [Part(a // bsz, range(a, b)) for a, b in zip(starts, ends, strict=True) if a < b]


class Batches:
    """Batches without end. Each holds ``bsz`` examples; one may span the seam of two epochs.

    Epoch e is the permutation that follows from (seed, e) alone, so the order does not depend on
    any other randomness and a position is one number. ``examples`` may be any sequence: an example
    is read when its turn comes, and by the process alone whose turn it is.

    Raises:
        InputError: there are no examples.
    """

    def __init__(self, examples: Sequence[Example], bsz: int, seed: int) -> None:
        if not len(examples):
            raise InputError("no training examples; give a data file with at least one")
        self.examples = examples
        self.bsz = bsz
        self.seed = seed
        self.position = 0
        """Examples handed out so far to all processes, over all epochs."""
        self._order = Epochs(len(examples), seed)
        self._digest: str | None = None

    @property
    def epoch(self) -> float:
        """Passes over the data so far."""
        return self.position / len(self.examples)

    def take(self, count: int) -> list[Batch]:
        """Return this process's part of the next ``count`` batches; in a world of one, all of them.

        Every process gets as many batches; some may be smaller, or empty.
        """
        taken = [
            Batch(tuple(self._example(self.position + place) for place in part.places))
            for part in self.parts(count)
        ]
        self.position += count * self.bsz
        return taken

    def parts(self, count: int) -> list[Part]:
        """Return what each batch that `take` returns is a part of."""
        return parts(count, self.bsz, distributed.world())

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> Batch:
        """Return the next batch whole, whatever other processes there are."""
        chosen = tuple(self._example(self.position + offset) for offset in range(self.bsz))
        self.position += self.bsz
        return Batch(chosen)

    @property
    def state(self) -> dict[str, Any]:
        """What `restore` needs to go on with the very next example."""
        if self._digest is None:
            self._digest = digest_of(self.examples)
        return {
            "position": self.position,
            "seed": self.seed,
            "examples": len(self.examples),
            "digest": self._digest,
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
        return self.examples[self._order[position]]


def digest_of(examples: Sequence[Example]) -> str:
    """Return what the examples are: a source's own digest, else one of their ids in order."""
    known: str | None = getattr(examples, "digest", None)
    if known is not None:
        return known
    ids = "\n".join(example.id for example in examples)
    return hashlib.sha256(ids.encode()).hexdigest()[:16]


def batches(examples: Sequence[Example], bsz: int, seed: int) -> Batches:
    """Return batches of ``bsz`` examples without end, in an order that ``seed`` decides."""
    return Batches(examples, bsz, seed)
