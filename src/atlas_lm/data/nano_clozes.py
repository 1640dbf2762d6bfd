"""Passages to questions with a gap, without labels: a masked span, or a title that is asked for.

The passage that a question was made of is found by retrieval like any other; words of the question
are deleted at random, so that it cannot be found or answered by aligning two equal strings.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from atlas_lm.data.nano_reader import GAP
from atlas_lm.runtime.errors import InputError
from atlas_lm.types import Passage

_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(])")
_NAME = re.compile(r"(?:[A-Z][\w'’-]+)(?:\s+(?:of|the|de|and)?\s*[A-Z][\w'’-]+){0,3}")
_YEAR = re.compile(r"\b1\d{3}\b|\b20[0-2]\d\b")
_IS = re.compile(r"^(?P<subject>.{2,60}?)(?:\s*\([^)]*\))*,?\s+(?P<verb>is|was|are|were)\s+")
_BORN = re.compile(r"\(.*(?:born|[–-]\s*\d|\d{3,4}).*\)")


@dataclass(frozen=True, kw_only=True)
class ClozeConfig:
    """Which questions are made of passages."""

    per_passage: int = 4
    """Questions made of each passage, as far as it gives so many."""
    title_share: float = 0.5
    """Share of the questions that ask for the title by what is said of it."""
    deletion: float = 0.15
    """Probability that a word of a question is deleted."""
    wh_share: float = 0.6
    """Share of the gaps that are written as a question word: who, what, when."""
    longest: int = 32
    """Longest question in words."""
    seed: int = 0
    """Governs every draw."""

    def __post_init__(self) -> None:
        for name in ("title_share", "deletion", "wh_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"clozes.{name}={getattr(self, name)}: give a share in [0, 1]")
        if self.per_passage < 1 or self.longest < 4:
            raise InputError(
                f"clozes.per_passage={self.per_passage} must be at least 1 and "
                f"longest={self.longest} at least 4"
            )


def clozes(passages: Iterable[Passage], config: ClozeConfig) -> Iterator[dict[str, Any]]:
    """Yield rows ``{id, query, target, gold_passage_ids}`` for the `base` task, passage by passage.

    A passage without a name, a year or a title to ask for gives none.
    """
    for passage in passages:
        draw = random.Random(f"clozes {config.seed} {passage.id}")
        seen: set[str] = set()
        for number in range(config.per_passage):
            made = _question(passage, config, draw)
            if made is None or made[0] in seen:
                continue
            seen.add(made[0])
            yield {
                "id": f"cloze-{passage.id}-{number}",
                "query": made[0],
                "target": made[1],
                "gold_passage_ids": [passage.id],
            }


def _question(passage: Passage, config: ClozeConfig, draw: random.Random) -> tuple[str, str] | None:
    sentences = _SENTENCE.split(passage.text)
    if draw.random() < config.title_share:
        asked = _title_question(passage, sentences[0], config, draw)
        if asked is not None:
            return asked
    return _span_question(sentences, config, draw)


def _title_question(
    passage: Passage, sentence: str, config: ClozeConfig, draw: random.Random
) -> tuple[str, str] | None:
    """Return "what is <predicate>" for the title, of a sentence that begins with it."""
    found = _IS.match(sentence)
    if found is None or not passage.title:
        return None
    wh = "who" if _BORN.search(sentence[: found.end()]) else "what"
    if draw.random() >= config.wh_share:
        wh = GAP
    words = [wh, found["verb"], *_thinned(sentence[found.end() :].split(), config, draw)]
    return " ".join(words[: config.longest]).rstrip(".,;"), passage.title.split(" (")[0]


def _span_question(
    sentences: Sequence[str], config: ClozeConfig, draw: random.Random
) -> tuple[str, str] | None:
    sentence = draw.choice(sentences)
    spans = [(m.span(), "when") for m in _YEAR.finditer(sentence)]
    spans += [
        (m.span(), draw.choice(("who", "what", "which")))
        for m in _NAME.finditer(sentence)
        if m.start() > 0 or " " in m.group()
    ]
    if not spans:
        return None
    (start, end), wh = draw.choice(spans)
    marker = wh if draw.random() < config.wh_share else GAP
    before = _thinned(sentence[:start].split(), config, draw)
    after = _thinned(sentence[end:].split(), config, draw)
    room = config.longest - 1
    before = before[-(room // 2) :] if len(before) + len(after) > room else before
    words = [*before, marker, *after[: room - len(before)]]
    return " ".join(words).rstrip(".,;"), sentence[start:end].removesuffix("'s").removesuffix("’s")


def _thinned(words: Sequence[str], config: ClozeConfig, draw: random.Random) -> list[str]:
    return [word for word in words if draw.random() >= config.deletion]
