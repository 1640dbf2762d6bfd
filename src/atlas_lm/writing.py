"""Answers in a task's words: what they continue, and which there may be."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from atlas_lm.runtime.errors import InputError
from atlas_lm.tasks import Task
from atlas_lm.types import Batch, Generated, Generation, Reader


def write(
    reader: Reader, batch: Batch, inputs: Any, generation: Generation, task: Task
) -> list[Generated]:
    """Return what the reader writes for each query of a batch.

    Only answers of ``generation.allowed`` are written where that names a file; else, where every
    example has choices, only those.

    Raises:
        InputError: the file is missing or has no answer in it.
    """
    keywords: dict[str, Any] = {}
    if generation.decoder_prompt:
        prompt = generation.decoder_prompt
        keywords["decoder_prompt"] = [prompt.replace("{query}", query) for query in batch.query]
    if generation.allowed:
        keywords["allowed"] = [_targets(generation.allowed, task)] * len(batch)
    elif batch.examples and all(example.choices for example in batch.examples):
        keywords["allowed"] = [example.choices for example in batch.examples]
    return reader.generate(inputs, generation, **keywords)


def read_allowed(path: str | Path) -> tuple[str, ...]:
    """Return the distinct answers of a file, one a line, in order.

    Raises:
        InputError: there is no such file, or no answer in it.
    """
    if not Path(path).is_file():
        raise InputError(f"generation.allowed={str(path)!r}: no such file; write an answer a line")
    lines = Path(path).read_text("utf-8").splitlines()
    answers = tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not answers:
        raise InputError(f"{path}: no answers; write one a line")
    return answers


@lru_cache(maxsize=1)
def _targets(path: str, task: Task) -> tuple[str, ...]:
    return tuple(map(task.write, read_allowed(path)))
