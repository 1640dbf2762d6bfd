"""Data files to examples, one JSON object a line."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from atlas_lm.runtime.errors import InputError
from atlas_lm.tasks import fields
from atlas_lm.tasks.base import Task, TaskConfig
from atlas_lm.tasks.jsonl import read_rows
from atlas_lm.tasks.registry import make_task
from atlas_lm.tasks.source import Examples
from atlas_lm.types import Example


def load_examples(
    path: str | Path,
    task: Task | TaskConfig,
    *,
    require_answers: bool = True,
    limit: int | None = None,
) -> list[Example]:
    """Return the examples of a JSONL file (``.gz``, ``.zst``) or a saved dataset, in their order.

    Ids are unique.

    A row without an id gets its line number, counted from 1.

    Args:
        path: the data file.
        task: what turns rows into examples, or the config that names it.
        require_answers: refuse rows with no answer to train on or to compare with.
        limit: read this many rows and no more.

    Raises:
        InputError: no such file, an empty file, or a wrong line, which is named.
    """
    if isinstance(task, TaskConfig):
        task = make_task(task)
    if Path(path).is_dir() or Path(path).suffix == ".zst":
        return list(Examples.open(path, task, require_answers=require_answers, limit=limit))
    examples: list[Example] = []
    lines: dict[str, int] = {}
    for line, row in islice(read_rows(path), limit):
        place = f"{path}:{line}"
        if row.get("id") is None:
            row["id"] = str(line)
        example = task.process(row, place=place)
        if require_answers and not example.answers:
            raise fields.missing(row, task.answer_field, place=place)
        if example.id in lines:
            raise InputError(
                f"{place}: id {example.id!r} was used on line {lines[example.id]} already; "
                "make ids unique, or leave them out to number the rows by line"
            )
        lines[example.id] = line
        examples.append(example)
    return examples
