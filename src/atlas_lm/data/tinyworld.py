"""A made-up world in which the right behaviour is known: every answer stands in one passage only.

Twenty people with invented names each have a home, a trade, a pet and so on, ten facts a person.
A passage states one fact ("bafilo food sotuve"); a question asks for one, with a verb for the
relation ("bafilo eats"), so that no word of a question but the name occurs in its passage. A
quarter of the questions are never trained on: they can be found and answered only by someone who
has learned what the names and the verbs mean, not by someone who remembers the answers.

`lessons` teach a reader to read before there is a retriever to teach: look-ups in other worlds,
where the same people have other facts, with the passages given.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.files import atomic_directory

VERBS = {
    "home": "dwells",
    "trade": "works",
    "pet": "keeps",
    "food": "eats",
    "drink": "drinks",
    "song": "sings",
    "game": "plays",
    "tool": "wields",
    "coat": "wears",
    "book": "reads",
}
"""What a relation is called in a passage, and the verb that asks for it."""

_SYLLABLES = ["ba", "do", "fi", "gu", "ka", "lo", "mi", "nu", "pa", "ri", "so", "tu", "ve", "zo"]
_SAME_PERSON = _SAME_RELATION = 0.25
"""Shares of a lesson's other passages that are about the same person, or state the same relation
of somebody else; the rest are drawn from the whole world."""

Fact = tuple[str, str]
"""A person and a relation."""


@dataclass(frozen=True, kw_only=True)
class TinyWorldConfig:
    """How large the world is."""

    people: int = 20
    """People; each has one fact of every relation."""
    test_share: float = 0.25
    """Share of the questions that are never trained on."""
    lessons: int = 16384
    """Look-ups in other worlds that the reader learns to read from."""
    lesson_passages: int = 4
    """Passages given in a lesson."""
    unanswerable: float = 0.05
    """Share of the lessons whose passages lack the answer: the reader learns to be unsure."""
    seed: int = 0
    """Seed of names, facts, split and lessons."""

    def __post_init__(self) -> None:
        if not 2 <= self.people <= 200:
            raise InputError(f"people={self.people}: give a number from 2 to 200")
        if not 0 < self.test_share < 1:
            raise InputError(f"test_share={self.test_share}: give a number between 0 and 1")
        if not 2 <= self.lesson_passages <= self.people:
            raise InputError(
                f"lesson_passages={self.lesson_passages}: give a number from 2 to people="
                f"{self.people}"
            )


@dataclass(frozen=True)
class TinyWorld:
    """Rows as they stand in the files: passages, training questions and test questions."""

    config: TinyWorldConfig
    people: tuple[str, ...]
    values: dict[str, tuple[str, ...]]
    """What people have of each relation: person n has value n, and nobody else has it."""
    passages: list[dict[str, Any]]
    train: list[dict[str, Any]]
    test: list[dict[str, Any]]

    @property
    def words(self) -> list[str]:
        """Every word that a passage, a question or an answer can hold."""
        things = [value for values in self.values.values() for value in values]
        return [*self.people, *VERBS, *VERBS.values(), *things]

    def lessons(self) -> Iterator[dict[str, Any]]:
        """Yield look-ups in other worlds, each with its passages given, shuffled.

        Nothing of this world's facts is in them; the words are the same.
        """
        draw = random.Random(f"lessons {self.config.seed}")
        for number in range(self.config.lessons):
            yield _lesson(self, draw, number)


def make_tinyworld(config: TinyWorldConfig) -> TinyWorld:
    """Return the world of a seed."""
    draw = random.Random(config.seed)
    words = iter(_invented_words(draw, config.people * (1 + len(VERBS))))
    people = tuple(islice(words, config.people))
    values = {relation: tuple(islice(words, config.people)) for relation in VERBS}
    passages, questions = [], []
    for number, person in enumerate(people):
        for relation in VERBS:
            value = values[relation][number]
            passages.append(_passage((person, relation), value))
            questions.append(_question((person, relation), value))
    draw.shuffle(questions)
    n_test = max(1, round(len(questions) * config.test_share))
    return TinyWorld(config, people, values, passages, questions[n_test:], questions[:n_test])


def write_tinyworld(path: str | Path, config: TinyWorldConfig) -> TinyWorld:
    """Write a world to a directory, which appears whole, and return it.

    ``passages.jsonl``, ``train.jsonl`` and ``test.jsonl`` (questions, answers, gold passage ids)
    and ``lessons.jsonl`` (questions with given passages).
    """
    world = make_tinyworld(config)
    with atomic_directory(path) as directory:
        _write_rows(directory / "passages.jsonl", world.passages)
        _write_rows(directory / "train.jsonl", world.train)
        _write_rows(directory / "test.jsonl", world.test)
        _write_rows(directory / "lessons.jsonl", world.lessons())
    return world


def _passage(fact: Fact, value: str) -> dict[str, Any]:
    person, relation = fact
    return {"id": f"{person}-{relation}", "title": person, "text": f"{relation} {value}"}


def _question(fact: Fact, answer: str) -> dict[str, Any]:
    person, relation = fact
    name = f"{person}-{relation}"
    return {
        "id": name,
        "question": f"{person} {VERBS[relation]}",
        "answers": [answer],
        "gold_passage_ids": [name],
    }


def _lesson(world: TinyWorld, draw: random.Random, number: int) -> dict[str, Any]:
    relations = list(VERBS)
    asked = draw.choice(world.people), draw.choice(relations)
    answerable = draw.random() >= world.config.unanswerable
    facts = [asked] if answerable else []
    while len(facts) < world.config.lesson_passages:
        other = _other_fact(world.people, relations, asked, draw)
        if other != asked and other not in facts:
            facts.append(other)
    stated = {fact: draw.choice(world.values[fact[1]]) for fact in facts}
    draw.shuffle(facts)
    answer = stated[asked] if answerable else draw.choice(world.values[asked[1]])
    question = _question(asked, answer)
    del question["gold_passage_ids"]
    passages = [_passage(fact, stated[fact]) for fact in facts]
    return {**question, "id": f"lesson-{number}", "passages": passages}


def _other_fact(
    people: Sequence[str], relations: Sequence[str], asked: Fact, draw: random.Random
) -> Fact:
    kind = draw.random()
    person = asked[0] if kind < _SAME_PERSON else draw.choice(people)
    same_relation = _SAME_PERSON <= kind < _SAME_PERSON + _SAME_RELATION
    return person, asked[1] if same_relation else draw.choice(relations)


def _write_rows(path: Path, rows: Sequence[dict[str, Any]] | Iterator[dict[str, Any]]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")


def _invented_words(draw: random.Random, count: int) -> list[str]:
    words = [a + b + c for a in _SYLLABLES for b in _SYLLABLES for c in _SYLLABLES]
    return draw.sample(words, count)
