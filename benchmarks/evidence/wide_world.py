"""A made-up world that can be made as large as one likes, over a fixed vocabulary.

People have a first and a last name, things three words ("bado fini kalo"), all from short lists,
so that more facts need more memory and not more words. An answer carries 18 bits.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from atlas_lm.data.tinyworld import VERBS

_SYLLABLES = ["ba", "do", "fi", "gu", "ka", "lo", "mi", "nu", "pa", "ri", "so", "tu", "ve", "zo"]
NAMES = 64
"""First names, and as many last names: 4,096 people at most."""
THINGS = 64
LESSON_PASSAGES = 4

Person = tuple[str, str]


@dataclass(frozen=True)
class WideWorld:
    """People and what they have of each relation."""

    people: tuple[Person, ...]
    values: dict[tuple[Person, str], str]

    def passages(self) -> list[dict[str, Any]]:
        return [_passage(person, relation, value) for (person, relation), value in self._facts()]

    def questions(self) -> list[dict[str, Any]]:
        return [
            _question(person, relation, value, name=True)
            for (person, relation), value in self._facts()
        ]

    def _facts(self) -> list[tuple[tuple[Person, str], str]]:
        return list(self.values.items())


def words() -> list[str]:
    """Return every word of every such world."""
    first, last, things = word_lists()
    return [*first, *last, *things, *VERBS, *VERBS.values()]


def word_lists() -> tuple[list[str], list[str], list[str]]:
    """Return first names, last names and the words of things."""
    every = [a + b for a, b in product(_SYLLABLES, _SYLLABLES)]
    every += [a + b + c for a, b, c in product(_SYLLABLES[:3], repeat=3)]
    every = [word for word in every if word not in {*VERBS, *VERBS.values()}]
    random.Random("words").shuffle(every)
    return every[:NAMES], every[NAMES : 2 * NAMES], every[2 * NAMES : 2 * NAMES + THINGS]


def make_world(facts: int, seed: int) -> WideWorld:
    """Return a world of so many facts, ten a person."""
    first, last, things = word_lists()
    draw = random.Random(f"world {seed}")
    everybody = draw.sample(list(product(first, last)), -(-facts // len(VERBS)))
    values = {
        (person, relation): " ".join(draw.choices(things, k=3))
        for person in everybody
        for relation in VERBS
    }
    return WideWorld(tuple(everybody), dict(list(values.items())[:facts]))


def lessons(count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield look-ups with their passages: facts of no world, drawn for each."""
    first, last, things = word_lists()
    draw = random.Random(f"lessons {seed}")
    relations = list(VERBS)
    for number in range(count):
        person = draw.choice(first), draw.choice(last)
        relation = draw.choice(relations)
        asked = (person, relation)
        facts = {asked}
        while len(facts) < LESSON_PASSAGES:
            facts.add(_distractor(draw, asked, first, last, relations))
        stated = {fact: " ".join(draw.choices(things, k=3)) for fact in sorted(facts)}
        shown = draw.sample(sorted(facts), LESSON_PASSAGES)
        yield {
            **_question(person, relation, stated[asked], name=False),
            "id": f"lesson-{number}",
            "passages": [_passage(who, what, stated[who, what]) for who, what in shown],
        }


def _distractor(
    draw: random.Random,
    asked: tuple[Person, str],
    first: list[str],
    last: list[str],
    relations: list[str],
) -> tuple[Person, str]:
    """Return the same person's other fact, a namesake's same fact, or anybody's any."""
    (given, family), relation = asked
    kind = draw.random()
    if kind < 0.3:
        return (given, family), draw.choice(relations)
    if kind < 0.6:
        namesake = (given, draw.choice(last)) if kind < 0.45 else (draw.choice(first), family)
        return namesake, relation
    return (draw.choice(first), draw.choice(last)), draw.choice(relations)


def _passage(person: Person, relation: str, value: str) -> dict[str, Any]:
    name = " ".join(person)
    return {"id": f"{name}/{relation}", "title": name, "text": f"{relation} {value}"}


def _question(person: Person, relation: str, value: str, *, name: bool) -> dict[str, Any]:
    who = " ".join(person)
    gold = {"gold_passage_ids": [f"{who}/{relation}"]} if name else {}
    return {
        "id": f"{who}/{relation}",
        "question": f"{who} {VERBS[relation]}",
        "answers": [value],
        **gold,
    }
