"""Questions with lettered options: MMLU (Hendrycks et al. 2021) and the like."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice, permutations
from string import ascii_uppercase
from typing import Any, ClassVar

from atlas_lm.runtime.errors import InputError
from atlas_lm.tasks import fields
from atlas_lm.tasks.base import ReaderKind, TaskConfig, TemplatedTask, Templates
from atlas_lm.tasks.jsonl import read_rows
from atlas_lm.tasks.settings import Permutations
from atlas_lm.types import Example

MAX_ORDERS = 720
"""Orders of one question, beyond which averaging over all of them is refused."""
_SENTINEL = re.compile(r"<extra_id_\d+>")

Order = tuple[int, ...]
"""Which option stands at each letter."""


@dataclass(frozen=True)
class Asked:
    """A question with its options, before it is worded."""

    question: str
    options: tuple[str, ...]
    correct: int | None
    """Which option is right; None where the row does not say."""
    subject: str = ""


class MultipleChoiceTask(TemplatedTask):
    """``{question, options: {"A": ..., "B": ...}[, answer: "B", subject]}``, two options or more.

    The reader writes the letter (or, ``task.choices.write="text"``, the option's text). Each choice
    is scored as a whole target. Options of equal text count as one.
    """

    templates: ClassVar[Mapping[ReaderKind, Templates]] = {
        "fid": Templates(
            "question: {question} options: {options} answer: <extra_id_0>", "<extra_id_0> {answer}"
        ),
        "causal": Templates("{question}\n{options}", "{answer}"),
    }
    asked_field = "question"
    answer_field = "answer"
    query_fields = ("question", "options")
    target_fields = ("answer",)

    def __init__(self, config: TaskConfig) -> None:
        super().__init__(config)
        self._shown = self._read_demonstrations(config)

    def process(self, row: Mapping[str, Any], *, place: str) -> Example:
        """Return the example a row describes, its options as given; see `Task.process`."""
        asked = read_question(row, place=place)
        known = ("question", "options", "answer")
        shared = fields.common(row, known=known, place=place)
        shared["metadata"] |= {"asked": asked}
        example = Example(
            query="",
            target="",
            answers=() if asked.correct is None else (asked.options[asked.correct],),
            options=asked.options,
            sought=" ".join((asked.question, *asked.options)),
            measures=("accuracy",),
            **shared,
        )
        return self._ordered(example, tuple(range(len(asked.options))), place=place)

    @property
    def draws(self) -> int:
        """Orders of the options that are trained on: 1, 4 or 24."""
        return {"none": 1, "cyclic": 4, "all": 24}[self.config.choices.train_permutations]

    def variant(self, example: Example, draw: int) -> Example:
        """Return the example with its options in the order of a draw.

        The first order of a question depends on its id, so that no order is more frequent where
        there are not as many orders as draws.
        """
        count = len(example.options)
        kind = self.config.choices.train_permutations
        number = draw + int(hashlib.sha256(example.id.encode()).hexdigest()[:8], 16)
        return self._ordered(example, nth_order(count, kind, number), place=example.id)

    def orders(self, example: Example) -> list[Example]:
        """Return the example in every order of `ChoiceConfig.debias`.

        Raises:
            InputError: there are more than `MAX_ORDERS`.
        """
        count, kind = len(example.options), self.config.choices.debias
        if kind == "all" and math.factorial(count) > MAX_ORDERS:
            raise InputError(
                f"example {example.id!r}: {count} options have {math.factorial(count):,} orders; "
                "set task.choices.debias=cyclic"
            )
        return [
            self._ordered(example, order, place=example.id) for order in all_orders(count, kind)
        ]

    def _ordered(self, example: Example, order: Order, *, place: str) -> Example:
        """Return the example with option ``order[n]`` at letter n; ``choices`` keep their order."""
        asked: Asked = example.metadata["asked"]
        written = self._answers(asked, order)
        target = "" if asked.correct is None else written[asked.correct]
        query = self._query(asked, order)
        shots = [*self._demonstrations(asked, place=place), query]
        return replace(
            example,
            query="\n\n".join(shots),
            target=target and self.target_wording.format(answer=target),
            choices=tuple(self.target_wording.format(answer=answer) for answer in written),
        )

    def _query(self, asked: Asked, order: Order) -> str:
        lettered = " ".join(
            f"({ascii_uppercase[n]}) {asked.options[o]}" for n, o in enumerate(order)
        )
        return self.query_wording.format(question=asked.question, options=lettered)

    def _answers(self, asked: Asked, order: Order) -> list[str]:
        """Return what is written for each option, in the file's order."""
        if self.config.choices.write == "text":
            return list(asked.options)
        return [ascii_uppercase[order.index(option)] for option in range(len(order))]

    def _demonstrations(self, asked: Asked, *, place: str) -> list[str]:
        if not self._shown:
            return []
        shown = self._shown.get(asked.subject) if asked.subject else self._shown.get("")
        if not shown:
            raise InputError(
                f"{place}: subject {asked.subject!r} has no question in task.choices."
                f"demonstrations={self.config.choices.demonstrations!r}; add some there"
            )
        others = [other for other in shown if other.question != asked.question]
        return [self._solved(other) for other in others[: self.config.choices.shots]]

    def _solved(self, asked: Asked) -> str:
        order = tuple(range(len(asked.options)))
        assert asked.correct is not None
        query = _SENTINEL.sub("", self._query(asked, order)).strip()
        return f"{query} {self._answers(asked, order)[asked.correct]}"

    @staticmethod
    def _read_demonstrations(config: TaskConfig) -> dict[str, list[Asked]]:
        """Return questions with answers by subject; under "" all of them."""
        path = config.choices.demonstrations
        by_subject: dict[str, list[Asked]] = {}
        for line, row in read_rows(path) if path else ():
            asked = read_question(row, place=f"{path}:{line}")
            if asked.correct is None:
                raise fields.missing(row, "answer", place=f"{path}:{line}")
            for subject in {asked.subject, ""}:
                by_subject.setdefault(subject, []).append(asked)
        return by_subject


def read_question(row: Mapping[str, Any], *, place: str) -> Asked:
    """Return the question of a row.

    Raises:
        InputError: options are missing, fewer than 2, more than 26 or not lettered from A; or the
            answer is no letter of an option.
    """
    question = fields.text(row, "question", place=place)
    options = _options(row, place=place)
    answer = fields.optional_text(row, "answer", place=place)
    letters = ascii_uppercase[: len(options)]
    if answer is not None and (len(answer) != 1 or answer not in letters):
        raise InputError(
            f"{place}: answer is {answer!r}, but the options are {letters[0]} to {letters[-1]}; "
            "give the letter of the right one"
        )
    correct = None if answer is None else letters.index(answer)
    subject = fields.optional_text(row, "subject", place=place) or ""
    return Asked(question, options, correct, subject)


def all_orders(count: int, kind: Permutations) -> list[Order]:
    """Return the orders of ``count`` options: as given, every rotation, or all."""
    if kind == "all":
        return list(permutations(range(count)))
    rotations = count if kind == "cyclic" else 1
    return [nth_order(count, "cyclic", number) for number in range(rotations)]


def nth_order(count: int, kind: Permutations, number: int) -> Order:
    """Return one of `all_orders`, counted round and round."""
    if kind == "none":
        return tuple(range(count))
    if kind == "cyclic":
        return tuple((place + number) % count for place in range(count))
    return _nth_permutation(list(range(count)), number % math.factorial(count))


def _nth_permutation(rest: list[int], number: int) -> Order:
    """Return permutation ``number`` in lexicographic order."""
    order = []
    for left in range(len(rest), 0, -1):
        place, number = divmod(number, math.factorial(left - 1))
        order.append(rest.pop(place))
    return tuple(order)


def _options(row: Mapping[str, Any], *, place: str) -> tuple[str, ...]:
    value = row.get("options")
    if value is None:
        raise fields.missing(row, "options", place=place)
    if isinstance(value, list):
        value = dict(zip(ascii_uppercase, islice(value, 26), strict=False)) | (
            {"beyond Z": ""} if len(value) > len(ascii_uppercase) else {}
        )
    if not isinstance(value, dict):
        raise InputError(
            f"{place}: options is {fields.show(value)}; write an object "
            '{"A": "...", "B": "..."} or a list of strings'
        )
    value = {letter: text for letter, text in value.items() if text is not None}
    if len(value) > len(ascii_uppercase):
        raise InputError(f"{place}: more than 26 options, and letters end at Z; give at most 26")
    letters = ascii_uppercase[: len(value)]
    if len(value) < 2:
        raise InputError(f"{place}: {len(value)} options; a choice needs 2 or more")
    if sorted(value) != list(letters):
        raise InputError(
            f"{place}: options are lettered {', '.join(value)}; letter them "
            f"{letters[0]} to {letters[-1]}, without gaps"
        )
    return tuple(fields.text(value, letter, place=f"{place}: options") for letter in letters)
