"""Few-shot splits: k examples by seed."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

from atlas_lm.runtime.errors import InputError
from atlas_lm.types import Example


def sample_shots(examples: Sequence[Example], k: int, seed: int) -> list[Example]:
    """Return ``k`` of the examples, drawn without replacement and in a drawn order.

    The draw depends on the seed and on what the examples say, neither on their order nor on ids,
    so a file that was shuffled or renumbered gives the same questions; and a smaller ``k`` gives
    the beginning of a larger one.

    Raises:
        InputError: ``k`` is negative or more than there are.
    """
    return [examples[position] for position in sample_positions(examples, k, seed)]


def sample_positions(examples: Sequence[Example], k: int, seed: int) -> list[int]:
    """Return where the examples of `sample_shots` stand, in the drawn order.

    Raises:
        InputError: as `sample_shots` does.
    """
    if not 0 <= k <= len(examples):
        raise InputError(f"{k} shots asked for, between 0 and {len(examples)} can be drawn")
    seen: Counter[bytes] = Counter()
    keyed: list[tuple[bytes, int]] = []
    for position, example in enumerate(examples):
        content = _content(example)
        keyed.append((_digest(f"{seed} {seen[content]}".encode() + content), position))
        seen[content] += 1
    return [position for _, position in sorted(keyed)[:k]]


def _content(example: Example) -> bytes:
    """Return a digest of the query and the answers; the target may have been drawn from them."""
    answers = example.answers or (example.target,)
    return _digest("\0".join((example.query, *answers)).encode())


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
