"""Whether a passage repeats a text: near-copies that would give away what is to be written."""

from __future__ import annotations

import re

from atlas_lm.passages.chunk import CJK
from atlas_lm.types import Overlap, Passage

_WORD = re.compile(rf"[{CJK}]|(?:(?![{CJK}])\w)+")


class Repeats:
    """Tells which passages share a run of ``overlap.words`` words with the text, whatever the case.

    A character counts as a word in scripts without spaces. A text shorter than the run is repeated
    by none.
    """

    def __init__(self, overlap: Overlap) -> None:
        self._words = overlap.words
        self._runs = _runs(overlap.text, overlap.words)

    def __call__(self, passage: Passage) -> bool:
        """Return whether the passage repeats the text."""
        return bool(self._runs) and not self._runs.isdisjoint(_runs(passage.text, self._words))


def _runs(text: str, length: int) -> set[tuple[str, ...]]:
    words = _WORD.findall(text.lower())
    return {tuple(words[start : start + length]) for start in range(len(words) - length + 1)}
