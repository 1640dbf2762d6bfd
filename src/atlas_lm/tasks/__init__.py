"""What is asked: raw rows become a query, a target and accepted answers."""

from atlas_lm.tasks.base import ReaderKind, Task, TaskConfig, TemplatedTask, Templates, with_wording
from atlas_lm.tasks.load import load_examples, read_rows
from atlas_lm.tasks.qa import BaseTask, QATask
from atlas_lm.tasks.registry import ENTRY_POINT_GROUP, TASKS, find_task, make_task
from atlas_lm.tasks.shots import sample_shots

__all__ = [
    "ENTRY_POINT_GROUP",
    "TASKS",
    "BaseTask",
    "QATask",
    "ReaderKind",
    "Task",
    "TaskConfig",
    "TemplatedTask",
    "Templates",
    "find_task",
    "load_examples",
    "make_task",
    "read_rows",
    "sample_shots",
    "with_wording",
]
