"""A made-up world that can be made as large as one likes, over a fixed vocabulary.

Two thousand people, twenty relations, things of one word from a short list, so that more facts need
more memory and not more words. An answer carries 8 bits.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

_SYLLABLES = ["ba", "do", "fi", "gu", "ka", "lo", "mi", "nu", "pa", "ri", "so", "tu", "ve", "zo"]
PEOPLE, RELATIONS, THINGS = 2000, 20, 256
"""Names; relations, each with a verb that asks for it; and things."""
MOST_FACTS = PEOPLE * RELATIONS
LESSON_PASSAGES = 4
_SAME_PERSON = _SAME_RELATION = 0.3
"""Shares of a lesson's other passages, as in `atlas_lm.data.tinyworld`."""

Fact = tuple[str, str]
"""A person and a relation."""


@dataclass(frozen=True)
class WideWorld:
    """What people have of each relation."""

    values: dict[Fact, str]

    def passages(self) -> list[dict[str, Any]]:
        return [_passage(fact, value) for fact, value in self.values.items()]

    def questions(self) -> list[dict[str, Any]]:
        return [
            {**_question(fact, value), "gold_passage_ids": [_id(fact)]}
            for fact, value in self.values.items()
        ]


def words() -> list[str]:
    """Return every word of every such world."""
    people, relations, things = word_lists()
    return [*people, *relations, *relations.values(), *things]


@cache
def word_lists() -> tuple[list[str], dict[str, str], list[str]]:
    """Return people, the relations with their verbs, and things."""
    every = [a + b + c for a, b, c in product(_SYLLABLES, repeat=3)]
    random.Random("words").shuffle(every)
    words = iter(every)
    people = [next(words) for _ in range(PEOPLE)]
    relations = {next(words): next(words) for _ in range(RELATIONS)}
    return people, relations, [next(words) for _ in range(THINGS)]


def make_world(facts: int, seed: int) -> WideWorld:
    """Return a world of so many facts: all twenty of one person before the next.

    Raises:
        ValueError: there are not so many.
    """
    if not 1 <= facts <= MOST_FACTS:
        raise ValueError(f"facts={facts}: give 1 to {MOST_FACTS}")
    people, relations, _ = word_lists()
    draw = random.Random(f"world {seed}")
    everybody = draw.sample(people, len(people))
    every = [(person, relation) for person in everybody for relation in relations]
    return WideWorld({fact: _thing(draw) for fact in every[:facts]})


def lessons(count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield look-ups with their passages: facts of no world, drawn for each."""
    people, relations, _ = word_lists()
    names = list(relations)
    draw = random.Random(f"lessons {seed}")
    for number in range(count):
        asked = draw.choice(people), draw.choice(names)
        facts = {asked: None}
        while len(facts) < LESSON_PASSAGES:
            facts[_other(draw, asked, people, names)] = None
        stated = {fact: _thing(draw) for fact in facts}
        shown = draw.sample(list(facts), LESSON_PASSAGES)
        yield {
            **_question(asked, stated[asked]),
            "id": f"lesson-{number}",
            "passages": [_passage(fact, stated[fact]) for fact in shown],
        }


def _other(draw: random.Random, asked: Fact, people: list[str], relations: list[str]) -> Fact:
    """Return another fact of the same person, the same fact of another, or anybody's any."""
    kind = draw.random()
    person = asked[0] if kind < _SAME_PERSON else draw.choice(people)
    same = _SAME_PERSON <= kind < _SAME_PERSON + _SAME_RELATION
    return person, asked[1] if same else draw.choice(relations)


def _thing(draw: random.Random) -> str:
    return draw.choice(word_lists()[2])


def _id(fact: Fact) -> str:
    return "/".join(fact)


def _passage(fact: Fact, value: str) -> dict[str, Any]:
    person, relation = fact
    return {"id": _id(fact), "title": person, "text": f"{relation} {value}"}


def _question(fact: Fact, value: str) -> dict[str, Any]:
    person, relation = fact
    verb = word_lists()[1][relation]
    return {"id": _id(fact), "question": f"{person} {verb}", "answers": [value]}
