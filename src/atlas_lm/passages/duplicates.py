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
    table = datasketch.MinHashLSH(threshold=min(similarity, 0.98), num_perm=PERMUTATIONS)
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
