"""Questions with answers as the topics files of Anserini write them.

A file has one question a line: a question, a tab and a Python list of answers, where either cell
may be quoted as in CSV; or a JSON object with ``question`` and ``answer``.
"""

from __future__ import annotations

import ast
import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass

from atlas_lm.runtime.errors import InputError


@dataclass(frozen=True)
class Question:
    """One question and every accepted answer that is not blank, in the order of the file."""

    text: str
    answers: tuple[str, ...]


def parse_topics(content: str, *, place: str) -> list[Question]:
    """Return the questions of a topics file, one for each line, in order.

    Raises:
        InputError: a line is neither form, or has no question or no answers.
    """
    lines = content.removesuffix("\n").split("\n")
    return [parse_topic(line, place=f"{place}:{n}") for n, line in enumerate(lines, start=1)]


def parse_topic(line: str, *, place: str) -> Question:
    """Return the question on one line; see `parse_topics`.

    A question that is still in quotation marks after CSV's were taken off was quoted twice; the
    second pair goes too.
    """
    line = line.rstrip("\r")
    try:
        text, answers = _json_cells(line) if line.startswith("{") else _tab_cells(line)
    except (ValueError, SyntaxError, KeyError, csv.Error) as error:
        raise _fault(line, place) from error
    if not all(isinstance(answer, str) for answer in answers):
        raise _fault(line, place)
    written = tuple(answer for answer in answers if answer.strip())
    if not text.strip() or not written:
        raise _fault(line, place)
    return Question(text.strip(), written)


def _json_cells(line: str) -> tuple[str, Sequence[str]]:
    row = json.loads(line)
    if not isinstance(row["question"], str) or not isinstance(row["answer"], list):
        raise ValueError(line)
    return row["question"], row["answer"]


def _tab_cells(line: str) -> tuple[str, Sequence[str]]:
    text, answers = next(csv.reader([line], delimiter="\t", strict=True))
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1].replace('""', '"')
    value = ast.literal_eval(answers)
    if not isinstance(value, list):
        raise ValueError(line)
    return text, value


def _fault(line: str, place: str) -> InputError:
    return InputError(
        f"{place}: {line[:80]!r} is no question; expected a question, a tab and a Python list of "
        'answers, or {"question": ..., "answer": [...]}'
    )
