"""Blocks of a document to passages of about so many words, cut between sentences."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from atlas_lm.passages.documents import Document

CJK = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
WORD = re.compile(rf"[{CJK}]|[^\s{CJK}]+")
SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)\]]*\s+(?=[\"'“‘(\[]*[^\Wa-z_])|(?<=[。！？])")
ABBREVIATION = re.compile(
    r"(?:\b(?:[A-Z]|[bcdfp]|Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|vs|etc|Fig|No|cf|e\.g|i\.e|al|ca|Inc|Ltd|Co|U\.S))"
    r"\.$"
)
BORDER = 0.05
"""What ending inside a paragraph costs, in squared deviations from the wanted length."""


@dataclass(frozen=True)
class Piece:
    """A sentence, or as much of one as a passage holds."""

    text: str
    words: int
    ends_block: bool


def chunks(document: Document, *, words: int, overlap: int = 0) -> Iterator[tuple[str, str]]:
    """Yield (section, text) of each passage in order. None crosses a heading.

    The lengths within a section are as near to ``words`` as sentences allow, and ends of
    paragraphs are preferred. With ``overlap`` a passage begins with the last sentences of the one
    before it in the section, so many words at most.
    """
    for section, blocks in groupby(document.blocks, lambda block: block.section):
        pieces = [piece for block in blocks for piece in _pieces(block.text, words)]
        start = 0
        for end in _cuts(pieces, words - overlap):
            first, room = start, overlap
            while first > 0 and pieces[first - 1].words <= room:
                first -= 1
                room -= pieces[first].words
            yield section, _joined(pieces[first:end])
            start = end


def _cuts(pieces: Sequence[Piece], words: int) -> list[int]:
    """Return where passages end, with the least sum of squared deviations from ``words``."""
    best, previous = [0.0], [0]
    for end in range(1, len(pieces) + 1):
        cost, start, held = float("inf"), end - 1, 0
        border = 0.0 if pieces[end - 1].ends_block else BORDER
        for first in range(end - 1, -1, -1):
            held += pieces[first].words
            if held > 2 * words and first < end - 1:
                break
            total = best[first] + ((held - words) / words) ** 2 + border
            if total < cost:
                cost, start = total, first
        best.append(cost)
        previous.append(start)
    cuts, end = [], len(pieces)
    while end:
        cuts.append(end)
        end = previous[end]
    return cuts[::-1]


def _pieces(text: str, words: int) -> list[Piece]:
    parts = text.split("\n") if "\n" in text else _sentences(text)
    bounded = [part for sentence in parts for part in _bounded(sentence, words)]
    last = len(bounded) - 1
    return [
        Piece(part, len(WORD.findall(part)), number == last or "\n" in text)
        for number, part in enumerate(bounded)
        if part.strip()
    ]


def _sentences(text: str) -> list[str]:
    found, start = [], 0
    for end in SENTENCE_END.finditer(text):
        if not ABBREVIATION.search(text[start : end.start()]):
            found.append(text[start : end.end()].rstrip())
            start = end.end()
    return [part for part in (*found, text[start:]) if part]


def _bounded(sentence: str, words: int) -> list[str]:
    """Cut a sentence that is longer than a passage between words."""
    found = list(WORD.finditer(sentence))
    if len(found) <= words:
        return [sentence]
    starts = [0, *(found[number].start() for number in range(words, len(found), words))]
    ends = [*starts[1:], len(sentence)]
    return [sentence[start:end].rstrip() for start, end in zip(starts, ends, strict=True)]


def _joined(pieces: Sequence[Piece]) -> str:
    text = ""
    for piece in pieces:
        text += piece.text + ("\n" if piece.ends_block else " ")
    return text.rstrip()
