"""Few-shot splits: k examples by seed."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

from atlas_lm.runtime.errors import InputError
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
    """Return a digest of what is asked and the answers; the target may be drawn from them."""
    asked = example.unworded or example.retriever_query
    answers = example.answers or (example.target,)
    return _digest("\0".join((asked, *answers)).encode())


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
