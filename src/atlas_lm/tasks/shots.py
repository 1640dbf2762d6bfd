"""Few-shot splits: k examples by seed."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

from atlas_lm.runtime.errors import InputError
from atlas_lm.tasks.source import repeated_rows
from atlas_lm.types import Example


def sample_shots(examples: Sequence[Example], k: int, seed: int) -> list[Example]:
    """Return ``k`` of the examples, drawn without replacement and in a drawn order.

    The draw depends on the seed, on what is asked and on the answers, neither on how it is worded
    nor on the examples' order or ids: every reader and every template gets the same questions, and
    so does a file that was shuffled or renumbered. A smaller ``k`` gives the beginning of a larger.

    Raises:
        InputError: ``k`` is negative or more than there are.
    """
    return [examples[position] for position in sample_positions(examples, k, seed)]


def sample_positions(examples: Sequence[Example], k: int, seed: int) -> list[int]:
    """Return where the examples of `sample_shots` stand, in the drawn order.

    In memory are k of them at a time, 8 bytes an example (25 while repeated ones are looked for),
    and a digest of each that comes more than once.

    Raises:
        InputError: as `sample_shots` does.
    """
    if not 0 <= k <= len(examples):
        raise InputError(f"{k} shots asked for, between 0 and {len(examples)} can be drawn")
    drawn = _Drawn(k, seed)
    hashes = np.empty(len(examples), np.uint64)
    for position, example in enumerate(examples):
        content = _content(example)
        hashes[position] = int.from_bytes(content[:8], "little")
        drawn.offer(content, 0, position)
    seen: Counter[bytes] = Counter()
    for position in repeated_rows(hashes):
        content = _content(examples[position])
        if seen[content]:
            drawn.offer(content, seen[content], position)
        seen[content] += 1
    return drawn.positions()


class _Drawn:
    """The ``k`` positions with the smallest keys of those offered."""

    def __init__(self, k: int, seed: int) -> None:
        self.k = k
        self.seed = seed
        self._found: dict[bytes, int] = {}
        self._bound: bytes | None = None

    def offer(self, content: bytes, occurrence: int, position: int) -> None:
        """Take a position, unless it is surely not drawn or the same was offered before."""
        key = _digest(f"{self.seed} {occurrence}".encode() + content)
        if self._bound is not None and key > self._bound:
            return
        self._found.setdefault(key, position)
        if len(self._found) > 2 * self.k + 1000:
            self._found = dict(sorted(self._found.items())[: self.k])
            self._bound = max(self._found, default=b"")

    def positions(self) -> list[int]:
        """Return the positions, in the order of their keys."""
        return [position for _, position in sorted(self._found.items())[: self.k]]


def _content(example: Example) -> bytes:
    """Return a digest of what is asked and the answers; the target may be drawn from them."""
    asked = example.unworded or example.retriever_query
    answers = example.answers or (example.target,)
    return _digest("\0".join((asked, *answers)).encode())


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
