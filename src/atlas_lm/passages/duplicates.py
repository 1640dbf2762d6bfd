"""Passages that say what an earlier one said: exactly, or nearly (MinHash, by datasketch)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Literal

from atlas_lm.runtime.extras import library

Drop = Literal["exact", "near"]
PERMUTATIONS = 128
SHINGLE_WORDS = 3
PROPOSED = 0.99
"""Share of the pairs of just the similarity asked for that are compared; of likelier ones more."""


def duplicate_check(kind: Drop, similarity: float = 0.8) -> Callable[[str], Drop | None]:
    """Return a function that is told one text after the other and says whether it is a duplicate.

    "exact" compares the words without regard to case, punctuation and spaces. "near" also finds
    texts whose sets of three-word shingles have an estimated Jaccard similarity of at least
    ``similarity`` with one kept earlier.

    Raises:
        InputError: "near" without datasketch installed.
    """
    seen: set[bytes] = set()
    near = _near(similarity) if kind == "near" else None

    def check(text: str) -> Drop | None:
        words = re.findall(r"\w+", text.casefold())
        digest = hashlib.blake2b(" ".join(words).encode(), digest_size=16).digest()
        if digest in seen:
            return "exact"
        seen.add(digest)
        return "near" if near is not None and near(words) else None

    return check


def _near(similarity: float) -> Callable[[list[str]], bool]:
    needs = "--drop-duplicates near needs datasketch"
    datasketch = library("datasketch", needs=needs, extra="prepare", otherwise="give exact")
    table = datasketch.MinHashLSH(num_perm=PERMUTATIONS, params=_bands(similarity))
    kept: list[object] = []

    def check(words: list[str]) -> bool:
        count = max(len(words) - SHINGLE_WORDS + 1, 1)
        shingles = {" ".join(words[n : n + SHINGLE_WORDS]).encode() for n in range(count)}
        sketch = datasketch.MinHash(num_perm=PERMUTATIONS)
        sketch.update_batch(sorted(shingles))
        if any(sketch.jaccard(kept[row]) >= similarity for row in table.query(sketch)):
            return True
        table.insert(len(kept), sketch)
        kept.append(datasketch.LeanMinHash(sketch))
        return False

    return check


def _bands(similarity: float) -> tuple[int, int]:
    """Return how many bands of how many rows propose a pair, the longest rows that will do.

    A pair of similarity s is proposed with probability 1 - (1 - s^rows)^bands (Leskovec, Rajaraman
    and Ullman, Mining of Massive Datasets, section 3.4.2).
    """
    for rows in range(PERMUTATIONS // 2, 1, -1):
        bands = PERMUTATIONS // rows
        if 1 - (1 - similarity**rows) ** bands >= PROPOSED:
            return bands, rows
    return PERMUTATIONS, 1
