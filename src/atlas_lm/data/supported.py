"""Which questions a corpus can answer: rules, applied to every question alike.

A passage is a *candidate* for a question when a strong retriever ranks it among its best
``topk``, or when the question names its title. A question is *answerable* when a candidate
contains one of its answers, and *supported* when such a passage is about what is asked: the
question names its title, or it holds ``overlap`` of the question's content words, weighted by
idf. Both are rules of thumb. An answer string in a passage is no proof that the passage answers.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Int64
from numpy import ndarray

from atlas_lm.data.anserini_topics import Question
from atlas_lm.runtime.normalization import normalize_answer
from atlas_lm.types import Passage

_BRACKETS = re.compile(r"\s*\([^()]*\)")


def _words(text: str) -> list[str]:
    return text.split()


_UNITS = _words("one two three four five six seven eight nine")
_TEENS = _words("ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen")
_TENS = _words("twenty thirty forty fifty sixty seventy eighty ninety")
_COMPOUNDS = [ten + unit for ten in _TENS for unit in _UNITS]
_LARGE = _words("zero hundred thousand million billion")
NUMBER_WORDS = frozenset([*_UNITS, *_TEENS, *_TENS, *_COMPOUNDS, *_LARGE])
"""Cardinal numbers in words, as they stand after normalisation: "twenty-one" is "twentyone"."""

FUNCTION_WORDS = frozenset(
    _words(
        """
        a about after again all also an and any are as at be been before between both but by called
        can come could did do does during each few first for from get go had has have he her here
        him his how i if in into is it its just last made make many may me might more most much must
        my name named new no not of on once one only or other our over own s same shall she should
        so some such t than that the their them then there they this to too under used very was we
        were what when where which who whom whose why will with would you your
        """
    )
)
"""Words of a question that say nothing about its subject."""


@dataclass(frozen=True, kw_only=True)
class SupportRule:
    """The numbers in the rules."""

    topk: int = 100
    """How many of the retriever's best passages are candidates."""
    shortest_answer: int = 3
    """Characters that a normalised answer, or title, must have to be looked for."""
    smallest_number: int = 1000
    """A bare number below this one is not looked for."""
    overlap: float = 0.4
    """Share of the question's idf-weighted words that a supporting passage holds."""


@dataclass(frozen=True)
class Evidence:
    """Rows of the candidate passages that contain an answer to one question, ascending."""

    supporting: tuple[int, ...] = ()
    """Those that support the question."""
    other: tuple[int, ...] = ()
    """Those that contain an answer and no more."""

    @property
    def bearing(self) -> tuple[int, ...]:
        """The supporting passages; where there are none, the others."""
        return self.supporting or self.other

    @property
    def answerable(self) -> bool:
        """Whether some candidate contains an answer."""
        return bool(self.supporting or self.other)

    @property
    def supported(self) -> bool:
        """Whether some candidate supports the question."""
        return bool(self.supporting)


def bare_title(title: str) -> str:
    """Return a title, normalised, without what it has in brackets ("Mercury (planet)")."""
    return normalize_answer(_BRACKETS.sub("", title))


def usable_answers(answers: Iterable[str], rule: SupportRule) -> set[str]:
    """Return the normalised answers that are worth looking for in a text.

    Left out are those shorter than ``shortest_answer``, bare numbers below ``smallest_number``
    and numbers in words: they occur everywhere.
    """
    return {answer for answer in map(normalize_answer, answers) if _usable(answer, rule)}


def _usable(answer: str, rule: SupportRule) -> bool:
    if len(answer) < rule.shortest_answer:
        return False
    if answer.isdecimal() and int(answer) < rule.smallest_number:
        return False
    return not all(word in NUMBER_WORDS for word in answer.split())


def find_phrases(
    texts: Sequence[Sequence[str]], phrases: Collection[str]
) -> dict[str, frozenset[int]]:
    """Return for each phrase that occurs, word for word, the positions of the texts it is in.

    Args:
        texts: Normalised texts, as words.
        phrases: Normalised phrases, their words joined by single spaces.
    """
    wanted = set(phrases)
    lengths: dict[str, set[int]] = defaultdict(set)
    for phrase in wanted:
        words = phrase.split()
        if words:
            lengths[words[0]].add(len(words))
    found: dict[str, set[int]] = defaultdict(set)
    for position, words_of_text in enumerate(texts):
        for start, word in enumerate(words_of_text):
            for length in lengths.get(word, ()):
                phrase = " ".join(words_of_text[start : start + length])
                if phrase in wanted:
                    found[phrase].add(position)
    return {phrase: frozenset(positions) for phrase, positions in found.items()}


def named_passages(
    questions: Sequence[Sequence[str]], titles: Sequence[str], rule: SupportRule
) -> list[set[int]]:
    """Return for each question the rows of the passages whose title stands in it.

    What a title has in brackets ("Mercury (planet)") need not. Function words name nothing.
    """
    rows: dict[str, list[int]] = defaultdict(list)
    for row, title in enumerate(titles):
        name = bare_title(title)
        if len(name) >= rule.shortest_answer and name not in FUNCTION_WORDS:
            rows[name].append(row)
    named: list[set[int]] = [set() for _ in questions]
    for title, positions in find_phrases(questions, rows).items():
        for position in positions:
            named[position].update(rows[title])
    return named


def inverse_document_frequency(texts: Sequence[Collection[str]]) -> dict[str, float]:
    """Return log(N / number of texts with the word) for every word of N texts."""
    counts = Counter(word for text in texts for word in set(text))
    return {word: math.log(len(texts) / count) for word, count in counts.items()}


def shared_weight(
    question: Iterable[str], text: Collection[str], idf: Mapping[str, float]
) -> float:
    """Return the share of the question's idf that falls on words of the text, in [0, 1].

    Function words, and words that no passage holds, do not count; 0 where none is left.
    """
    words = {word for word in question if word in idf and word not in FUNCTION_WORDS}
    total = sum(idf[word] for word in sorted(words))
    return sum(idf[word] for word in sorted(words) if word in text) / total if total else 0.0


def find_evidence(
    questions: Sequence[Question],
    passages: Sequence[Passage],
    best_rows: Int64[ndarray, "questions topk"],
    rule: SupportRule,
) -> list[Evidence]:
    """Return what the corpus holds for each question.

    Args:
        questions: The questions.
        passages: The whole corpus.
        best_rows: For each question the rows a strong retriever ranks best.
        rule: The numbers.
    """
    texts = [normalize_answer(f"{passage.title} {passage.text}").split() for passage in passages]
    words = [frozenset(text) for text in texts]
    idf = inverse_document_frequency(words)
    answers = [usable_answers(question.answers, rule) for question in questions]
    holders = find_phrases(texts, set().union(*answers))
    asked = [normalize_answer(question.text).split() for question in questions]
    named = named_passages(asked, [passage.title for passage in passages], rule)
    evidence = []
    for position, question in enumerate(asked):
        candidates = named[position] | set(best_rows[position, : rule.topk].tolist())
        bearing = candidates & set().union(
            *(holders.get(answer, frozenset()) for answer in answers[position])
        )
        supporting = {
            row
            for row in bearing
            if row in named[position] or shared_weight(question, words[row], idf) >= rule.overlap
        }
        evidence.append(Evidence(tuple(sorted(supporting)), tuple(sorted(bearing - supporting))))
    return evidence
