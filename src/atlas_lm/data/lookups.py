"""Made-up facts in everyday sentences: look-ups that teach a reader to find and to copy.

"The nearest river to Saturn V is Adam Smith." Names are drawn at random from a list, so no fact is
true or ever comes again: a question can be answered only from the passages given with it, and only
by copying the very words. Beside the passage that answers stand others about somebody else under
the same relation, and about the same name under another.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from atlas_lm.runtime.errors import InputError

RELATIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "capital": (
        ("The capital of {s} is {o}.", "{o} is the capital of {s}."),
        ("what is the capital of {s}", "which city is the capital of {s}?"),
    ),
    "author": (
        ("{s} was written by {o}.", "{o} wrote {s}."),
        ("who wrote {s}", "who is the author of {s}?"),
    ),
    "painter": (
        ("{s} was painted by {o}.", "{o} painted {s}."),
        ("who painted {s}", "which artist painted {s}?"),
    ),
    "birthplace": (
        ("{s} was born in {o}.", "{o} is the birthplace of {s}."),
        ("where was {s} born", "in which place was {s} born?"),
    ),
    "spouse": (
        ("{s} was married to {o}.", "In that year {s} married {o}."),
        ("who was married to {s}", "to whom was {s} married?"),
    ),
    "river": (
        ("The nearest river to {s} is {o}.", "{s} lies on the river {o}."),
        ("on which river does {s} lie?", "what river is {s} on"),
    ),
    "inventor": (
        ("{s} was invented by {o}.", "{o} is known for the invention of {s}."),
        ("who invented {s}", "which person invented {s}?"),
    ),
    "actor": (
        ("The part of {s} is played by {o}.", "{o} plays the part of {s}."),
        ("who played {s}", "which actor plays the part of {s}?"),
    ),
    "currency": (
        ("The currency of {s} is called {o}.", "In {s} people pay with {o}."),
        ("what is the currency of {s}", "what do people pay with in {s}?"),
    ),
    "symbol": (
        ("The symbol of {s} is {o}.", "{s} has {o} as its symbol."),
        ("what is the symbol of {s}", "{s} has what as its symbol?"),
    ),
    "successor": (
        ("{s} was succeeded by {o}.", "After {s} came {o}."),
        ("who succeeded {s}", "who came after {s}?"),
    ),
    "origin": (
        ("{s} comes from {o}.", "The home of {s} is {o}."),
        ("where does {s} come from", "what is the home of {s}?"),
    ),
    "founding": (
        ("{s} was founded in {y}.", "In {y} {s} was founded."),
        ("when was {s} founded", "in what year was {s} founded?"),
    ),
    "death": (
        ("{s} died in {y}.", "In {y} came the death of {s}."),
        ("when did {s} die", "in which year did {s} die?"),
    ),
}
"""What is said of a subject {s} with an object {o} or a year {y}, and the questions for it."""

_SAME_RELATION = 0.45
_SAME_SUBJECT = 0.3


@dataclass(frozen=True, kw_only=True)
class LookupConfig:
    """How hard the look-ups are."""

    count: int = 100_000
    """Look-ups made."""
    passages: int = 4
    """Passages given with each; one of them answers."""
    names: Literal["titles", "words", "pairs"] = "titles"
    """What names are drawn from: titles of the passages; words that are one piece of the
    reader's vocabulary, which are easiest to copy; or two such words side by side."""
    style: Literal["sentences", "terse"] = "sentences"
    """Facts as sentences and questions, or as "relation value" under the subject's title, asked
    for as "subject relation", which is learned sooner."""
    facts: int = 2
    """Most facts in one passage; each has between 1 and this many."""
    name_words: int = 3
    """Longest title used, in words."""
    seed: int = 0
    """Governs every draw."""

    def __post_init__(self) -> None:
        for name in ("count", "passages", "facts", "name_words"):
            if getattr(self, name) < 1:
                raise InputError(f"lookups.{name}={getattr(self, name)}: give at least 1")


def split_names(names: Sequence[str], *, words: int) -> tuple[list[str], list[str]]:
    """Return the names of at most ``words`` words: those to train on, and one in ten held out.

    Raises:
        InputError: fewer than 40 names are left.
    """
    short = sorted({name for name in names if 0 < len(name.split()) <= words and "{" not in name})
    if len(short) < 40:
        raise InputError(
            f"lookups: {len(short)} names of at most {words} words; at least 40 are needed: "
            "give more passages with titles, or raise name_words"
        )
    random.Random("names").shuffle(short)
    held = len(short) // 10
    return short[held:], short[:held]


def pairs_of(words: Sequence[str], *, each: int = 8) -> list[str]:
    """Return two-word names: every word first, so many times, each time before another at random.

    Raises:
        InputError: fewer than ``each`` words.
    """
    if len(words) < each:
        raise InputError(f"lookups: {len(words)} words make no pairs; at least {each} are needed")
    draw = random.Random("pairs")
    return [f"{word} {second}" for word in words for second in draw.sample(words, each)]


def lookups(names: Sequence[str], config: LookupConfig) -> Iterator[dict[str, Any]]:
    """Yield rows ``{id, query, target, passages}`` for the `base` task with given passages.

    Raises:
        InputError: so few names that the passages of a look-up cannot all differ.
    """
    if 2 * config.passages * config.facts > len(names) * len(RELATIONS):
        raise InputError(
            f"lookups.passages={config.passages} of {config.facts} facts: too many for "
            f"{len(names)} names under {len(RELATIONS)} relations; give fewer, or more names"
        )
    draw = random.Random(f"lookups {config.seed}")
    for number in range(config.count):
        yield _lookup(draw, names, config, number)


@dataclass(frozen=True)
class _Fact:
    subject: str
    relation: str
    value: str

    def sentence(self, draw: random.Random) -> str:
        said = draw.choice(RELATIONS[self.relation][0])
        return said.format(s=self.subject, o=self.value, y=self.value)

    def question(self, draw: random.Random) -> str:
        return draw.choice(RELATIONS[self.relation][1]).format(s=self.subject)


def _lookup(
    draw: random.Random, names: Sequence[str], config: LookupConfig, number: int
) -> dict[str, Any]:
    asked = _fact(draw, names, draw.choice(names), draw.choice(list(RELATIONS)))
    taken = {(asked.subject, asked.relation)}
    groups = [[asked, *_more(draw, names, asked.subject, taken, config.facts)]]
    while len(groups) < config.passages:
        kind = draw.random()
        subject = draw.choice(names)
        relation = draw.choice(list(RELATIONS))
        if kind < _SAME_RELATION:
            relation = asked.relation
        elif kind < _SAME_RELATION + _SAME_SUBJECT:
            subject = asked.subject
        if (subject, relation) in taken:
            continue
        taken.add((subject, relation))
        first = _fact(draw, names, subject, relation)
        groups.append([first, *_more(draw, names, subject, taken, config.facts)])
    draw.shuffle(groups)
    terse = config.style == "terse"
    question = f"{asked.subject} {asked.relation}" if terse else asked.question(draw)
    passages = [
        {"id": f"{number}-{place}", **_passage(draw, facts, terse)}
        for place, facts in enumerate(groups)
    ]
    return {
        "id": f"lookup-{number}",
        "query": question,
        "target": asked.value,
        "passages": passages,
    }


def _fact(draw: random.Random, names: Sequence[str], subject: str, relation: str) -> _Fact:
    is_dated = "{y}" in RELATIONS[relation][0][0]
    value = str(draw.randint(1000, 2020)) if is_dated else draw.choice(names)
    return _Fact(subject, relation, value)


def _more(
    draw: random.Random, names: Sequence[str], subject: str, taken: set[tuple[str, str]], most: int
) -> list[_Fact]:
    """Return further facts of one subject, each of a relation not yet stated of it."""
    facts = []
    for _ in range(draw.randrange(most)):
        relation = draw.choice(list(RELATIONS))
        if (subject, relation) not in taken:
            taken.add((subject, relation))
            facts.append(_fact(draw, names, subject, relation))
    return facts


def _passage(draw: random.Random, facts: list[_Fact], terse: bool) -> dict[str, str]:
    said = [
        f"{fact.relation} {fact.value}" if terse else fact.sentence(draw)
        for fact in draw.sample(facts, len(facts))
    ]
    return {"title": facts[0].subject, "text": " ".join(said)}
