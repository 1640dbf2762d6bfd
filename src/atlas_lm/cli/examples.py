"""The examples of a training run: one source or a mixture, from files or from the passages."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from atlas_lm.config import MixConfig, RunConfig
from atlas_lm.index import open_index
from atlas_lm.passages.store import PassageStore
from atlas_lm.runtime.errors import InputError
from atlas_lm.tasks import (
    Chosen,
    Examples,
    Mixture,
    Part,
    PassageExamples,
    PretextTask,
    ReaderKind,
    Source,
    Task,
    TaskConfig,
    find_task,
    make_task,
    sample_positions,
    with_wording,
)
from atlas_lm.tasks.pretext import MLMTask
from atlas_lm.types import Example, Reader


def training_examples(config: RunConfig, task: TaskConfig, kind: ReaderKind = "fid") -> Source:
    """Return what a run trains on, read by row.

    Args:
        config: the recipe.
        task: its task, worded for the reader.
        kind: the kind of reader, for the other tasks of a mixture.

    Raises:
        InputError: a file is missing or a row of it wrong; or nothing to train on is named.
    """
    if not config.data.mix:
        return _source(config, task, MixConfig(path=config.data.train, shots=config.data.shots))
    parts = []
    names = [entry.task or task.task for entry in config.data.mix]
    for number, entry in enumerate(config.data.mix):
        worded = _task(config, entry, task, kind)
        alone = names.count(worded.task) == 1
        name = worded.task if alone else f"{worded.task}-{number + 1}"
        parts.append(Part(name, _source(config, worded, entry), entry.weight))
    return Mixture(parts, seed=config.training.seed)


def check_sentinels(config: RunConfig, task: TaskConfig, reader: Reader) -> None:
    """Refuse to mask spans for a T5 reader whose vocabulary has not as many sentinels.

    Raises:
        InputError: as said.
    """
    if reader.settings.kind != "fid" or not _has(config, task, MLMTask):
        return
    wording, wanted = task.pretext.sentinel or "<extra_id_{n}>", task.pretext.sentinels
    sentinels = [wording.replace("{n}", str(number)) for number in range(wanted)]
    vocabulary = reader.tokenizer.get_vocab()
    known = list(takewhile(vocabulary.__contains__, sentinels))
    if len(known) < 2:
        raise InputError(
            f"task mlm hides spans behind {sentinels[len(known)]}, which the vocabulary of "
            f"{config.reader.path} has not; name one that it has in task.pretext.sentinel, or take "
            "task lm"
        )
    if len(known) < wanted:
        raise InputError(
            f"task mlm hides spans behind {sentinels[0]} to {sentinels[-1]}, but the vocabulary of "
            f"{config.reader.path} ends with {known[-1]}; set task.pretext.sentinels={len(known)}"
        )


def check_enough_passages(config: RunConfig, task: TaskConfig, findable: int) -> None:
    """Refuse a corpus that does not hold as many passages as each query is to be shown.

    Args:
        config: the recipe.
        task: its task.
        findable: passages that a search may return.

    Raises:
        InputError: as said; the message names the setting to lower.
    """
    topk = config.context.retriever_n_context
    own = int(_has(config, task, PretextTask))
    if config.context.passages_from == "index" and findable < topk + own:
        besides = " besides the one that each example is made of" if own else ""
        raise InputError(
            f"context.retriever_n_context={topk} distinct passages are asked for each query"
            f"{besides}, but only {findable} can be found; give more passages, or set "
            f"context.n_context and context.retriever_n_context to at most {max(findable - own, 0)}"
        )


def _has(config: RunConfig, task: TaskConfig, kind: type[Any]) -> bool:
    """Return whether a task of this kind is trained."""
    names = {entry.task or task.task for entry in config.data.mix} or {task.task}
    return any(issubclass(find_task(name), kind) for name in names)


def _task(config: RunConfig, entry: MixConfig, task: TaskConfig, kind: ReaderKind) -> TaskConfig:
    """Return the task of one source; templates are the recipe's where the task is."""
    if entry.task in ("", task.task):
        return task
    other = dataclasses.replace(
        config.task, task=entry.task, query_template=None, target_template=None
    )
    return with_wording(other, find_task(entry.task), kind)


def _source(config: RunConfig, task: TaskConfig, entry: MixConfig) -> Source:
    made = make_task(task)
    source: Source
    if entry.path:
        return _rows(entry, made, config.data.shots_seed)
    if isinstance(made, PretextTask):
        source = PassageExamples(_passages(config, task.task), made)
    else:
        where = "[[data.mix]]: path" if config.data.mix else "data.train"
        raise InputError(
            f"{where} is empty; name a file of training examples for task {task.task!r} (JSONL)"
        )
    return Chosen(source, _drawn(source, entry, config.data.shots_seed)) if entry.shots else source


def _rows(entry: MixConfig, task: Task, seed: int) -> Source:
    """Return the examples of a file: every variant of all its rows, or of those drawn."""
    if isinstance(task, PretextTask) and task.config.pretext.same_document:
        raise InputError(
            f"task.pretext.same_document has no effect on the rows of {entry.path}, whose "
            "documents are not known; name the passages in data.passages or data.index instead, or "
            "leave it out"
        )
    every = Examples.open(entry.path, task, variants=True)
    if not entry.shots:
        return every
    rows = len(every) // task.draws
    drawn = _drawn(every[:rows] if task.draws > 1 else every, entry, seed)
    return Chosen(every, [draw * rows + row for draw in range(task.draws) for row in drawn])


def _drawn(source: Sequence[Example], entry: MixConfig, seed: int) -> list[int]:
    """Return the positions of a source that a few-shot draw takes."""
    if entry.shots > len(source):
        raise InputError(
            f"data.shots={entry.shots}, but {entry.path or 'the corpus'} holds {len(source)} "
            "examples; set data.shots=0 to train on all of them"
        )
    return sample_positions(source, entry.shots, seed)


def _passages(config: RunConfig, task: str) -> PassageStore:
    """Return the passages that a pretext task makes its examples of."""
    if config.data.index:
        return open_index(Path(config.data.index))[1]
    paths: Sequence[str] = config.data.passages
    if not paths:
        raise InputError(
            f"task {task!r} makes its examples of passages; give data.passages or data.index"
        )
    return PassageStore.open([Path(path) for path in paths])
