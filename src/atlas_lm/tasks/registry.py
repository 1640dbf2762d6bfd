"""Tasks by name: the package's own, and those that installed packages register."""

from __future__ import annotations

from importlib.metadata import entry_points

from atlas_lm.runtime.errors import InputError, did_you_mean
from atlas_lm.tasks.base import Task, TaskConfig
from atlas_lm.tasks.fever import Fever2Task, FeverTask
from atlas_lm.tasks.kilt import KILT_TASKS
from atlas_lm.tasks.multiple_choice import MultipleChoiceTask
from atlas_lm.tasks.pretext import LMTask, MLMTask, SectionTask
from atlas_lm.tasks.qa import BaseTask, QATask

TASKS: dict[str, type[Task]] = {
    "qa": QATask,
    "base": BaseTask,
    "lm": LMTask,
    "mlm": MLMTask,
    "section": SectionTask,
    "fever": FeverTask,
    "fever2": Fever2Task,
    "multiple_choice": MultipleChoiceTask,
    **KILT_TASKS,
}
"""The package's own tasks."""

ENTRY_POINT_GROUP = "atlas_lm.tasks"
"""Where other packages register theirs: ``name = "their.module:TheirTask"``."""


def find_task(name: str) -> type[Task]:
    """Return the task class called ``name``; the package's own come before registered ones.

    Raises:
        InputError: there is no such task, or the registered one cannot be imported or is no task.
    """
    if name in TASKS:
        return TASKS[name]
    registered = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    if name not in registered:
        known = sorted({*TASKS, *registered})
        raise InputError(
            f"unknown task {name!r}{did_you_mean(name, known)}; known: {', '.join(known)}. "
            f"A task of your own is registered under the entry point group {ENTRY_POINT_GROUP!r}"
        )
    point = registered[name]
    try:
        task = point.load()
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"task {name!r} is registered as {point.value!r}, which cannot be imported: {error}"
        ) from error
    if not (isinstance(task, type) and issubclass(task, Task)):
        raise InputError(
            f"task {name!r} is registered as {point.value!r}, which is not a subclass of "
            "atlas_lm.tasks.Task"
        )
    return task


def make_task(config: TaskConfig) -> Task:
    """Return the task that ``config`` names, ready to process rows."""
    return find_task(config.task)(config)
