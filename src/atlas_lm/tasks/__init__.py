"""What is asked: raw rows become a query, a target and accepted answers."""

from atlas_lm.tasks.base import ReaderKind, Task, TaskConfig, TemplatedTask, Templates, with_wording
from atlas_lm.tasks.fever import FeverTask
from atlas_lm.tasks.jsonl import read_rows
from atlas_lm.tasks.kilt import KiltTask
from atlas_lm.tasks.load import load_examples
from atlas_lm.tasks.multiple_choice import MultipleChoiceTask
from atlas_lm.tasks.passages import PassageExamples
from atlas_lm.tasks.pretext import PretextTask
from atlas_lm.tasks.qa import BaseTask, QATask
from atlas_lm.tasks.registry import ENTRY_POINT_GROUP, TASKS, find_task, make_task
from atlas_lm.tasks.settings import ChoiceConfig, PretextConfig
from atlas_lm.tasks.shots import sample_positions, sample_shots
from atlas_lm.tasks.source import Chosen, Examples, Mixture, Part, Source

__all__ = [
    "ENTRY_POINT_GROUP",
    "TASKS",
    "BaseTask",
    "ChoiceConfig",
    "Chosen",
    "Examples",
    "FeverTask",
    "KiltTask",
    "Mixture",
    "MultipleChoiceTask",
    "Part",
    "PassageExamples",
    "PretextConfig",
    "PretextTask",
    "QATask",
    "ReaderKind",
    "Source",
    "Task",
    "TaskConfig",
    "TemplatedTask",
    "Templates",
    "find_task",
    "load_examples",
    "make_task",
    "read_rows",
    "sample_positions",
    "sample_shots",
    "with_wording",
]
