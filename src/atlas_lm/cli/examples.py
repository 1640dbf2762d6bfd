"""The examples of a training run: one source or a mixture, from files or from the passages."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

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
    TaskConfig,
    find_task,
    make_task,
    sample_positions,
    with_wording,
)


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
    for number, entry in enumerate(config.data.mix):
        worded = _task(config, entry, task, kind)
        alone = [other.task for other in config.data.mix].count(entry.task) == 1
        name = worded.task if alone else f"{worded.task}-{number + 1}"
        parts.append(Part(name, _source(config, worded, entry), entry.weight))
    return Mixture(parts, seed=config.training.seed)


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
    names = {entry.task or task.task for entry in config.data.mix} or {task.task}
    own = int(any(issubclass(find_task(name), PretextTask) for name in names))
    if config.context.passages_from == "index" and findable < topk + own:
        besides = " besides the one that each example is made of" if own else ""
        raise InputError(
            f"context.retriever_n_context={topk} distinct passages are asked for each query"
            f"{besides}, but only {findable} can be found; give more passages, or set "
            f"context.n_context and context.retriever_n_context to at most {max(findable - own, 0)}"
        )


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
        source = Examples.open(entry.path, made, variants=True)
    elif isinstance(made, PretextTask):
        source = PassageExamples(_passages(config, task.task), made)
    else:
        where = "[[data.mix]]: path" if config.data.mix else "data.train"
        raise InputError(
            f"{where} is empty; name a file of training examples for task {task.task!r} (JSONL)"
        )
    return _shots(source, entry, config.data.shots_seed)


def _shots(source: Source, entry: MixConfig, seed: int) -> Source:
    if not entry.shots:
        return source
    if entry.shots > len(source):
        raise InputError(
            f"data.shots={entry.shots}, but {entry.path or 'the corpus'} holds {len(source)} "
            "examples; set data.shots=0 to train on all of them"
        )
    return Chosen(source, sample_positions(source, entry.shots, seed))


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
