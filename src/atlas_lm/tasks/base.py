"""What a task is: it turns one raw row into an `Example`.

A task of your own is a subclass of `Task` with one method, registered by your package under the
entry point group ``atlas_lm.tasks``.
"""

from __future__ import annotations

import re
import string
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from atlas_lm.runtime.templates import template_pieces
from atlas_lm.tasks.settings import ChoiceConfig, PretextConfig
from atlas_lm.types import Example

ReaderKind = Literal["fid", "causal"]
"""Which reader a prompt is written for: Fusion-in-Decoder over T5, or a decoder-only LM."""

_SENTINEL = re.compile(r"<extra_id_\d+>")


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """What is asked and how it is worded."""

    task: str = "qa"
    """Name of the task: see docs/tasks.md; or one that an installed package registers."""
    query_template: str | None = None
    """Wording of the query; left out, the task's own for the kind of reader."""
    target_template: str | None = None
    """Wording of the target; left out, the task's own for the kind of reader."""
    sample_target: bool = False
    """Draw the target from the accepted answers by seed; otherwise it is the first of them."""
    seed: int = 0
    """Seed of the drawn targets, hidden spans and orders."""
    pretext: PretextConfig = field(default_factory=PretextConfig)
    choices: ChoiceConfig = field(default_factory=ChoiceConfig)


@dataclass(frozen=True)
class Templates:
    """The wording of a query and of its target."""

    query: str
    target: str


class Task(ABC):
    """Turns raw rows into examples, and what a reader wrote into an answer."""

    asked_field: ClassVar[str] = "query"
    """The field of a row that holds what a person asks; see `ask`."""
    answer_field: ClassVar[str] = "answers"
    """The field of a row that holds what is to be answered, for error messages."""

    def __init__(self, config: TaskConfig) -> None:
        self.config = config
        self.target_wording = "{answer}"

    @abstractmethod
    def process(self, row: Mapping[str, Any], *, place: str) -> Example:
        """Return the example a row describes; a row without answers gives one without a target.

        Args:
            row: one JSON object of the data file; `load_examples` has given it an ``id``.
            place: where the row came from, as ``path:line``, for error messages.

        Raises:
            InputError: a field is missing or has the wrong type.
        """

    @property
    def draws(self) -> int:
        """How many variants of a row are trained on; see `variant`."""
        return 1

    def variant(self, example: Example, draw: int) -> Example:
        """Return variant ``draw`` of an example, from 0 to ``draws - 1``, always the same."""
        return example

    def ask(self, text: str, *, id: str = "1") -> Example:
        """Return an example that asks ``text``, in the task's wording, without answers.

        Raises:
            InputError: there is nothing in ``text``.
        """
        return self.process({"id": id, self.asked_field: text}, place="question")

    def write(self, answer: str) -> str:
        """Return the target that says ``answer``."""
        names = [name for _, name, _, _ in string.Formatter().parse(self.target_wording) if name]
        return self.target_wording.format(**dict.fromkeys(names, answer))

    def orders(self, example: Example) -> list[Example]:
        """Return the forms of an example over which a choice is averaged; itself alone here."""
        return [example]

    @classmethod
    def worded(cls, config: TaskConfig, reader: ReaderKind) -> TaskConfig:
        """Return ``config`` with everything written out that depends on the kind of reader."""
        return config

    def answer(self, text: str) -> str:
        """Return the answer within what a reader wrote: the words around it in targets are off."""
        begin, end = _literals(self.target_wording)
        return _bare(_bare(text).removeprefix(begin).removesuffix(end))


class TemplatedTask(Task):
    """A task whose query and target are worded by templates; `templates` holds its own wordings."""

    templates: ClassVar[Mapping[ReaderKind, Templates]]
    query_fields: ClassVar[tuple[str, ...]]
    target_fields: ClassVar[tuple[str, ...]]

    def __init__(self, config: TaskConfig) -> None:
        super().__init__(config)
        own = self.templates["fid"]
        self.query_wording = _first(config.query_template, own.query) or ""
        self.target_wording = _first(config.target_template, own.target) or ""
        template_pieces(self.query_wording, self.query_fields, option="query_template")
        template_pieces(self.target_wording, self.target_fields, option="target_template")

    @classmethod
    def worded(cls, config: TaskConfig, reader: ReaderKind) -> TaskConfig:
        """Return ``config`` with the templates that it leaves at None written out."""
        own = cls.templates[reader]
        return replace(
            config,
            query_template=_first(config.query_template, own.query),
            target_template=_first(config.target_template, own.target),
        )


def with_wording(
    config: TaskConfig, task: type[Task], reader: ReaderKind, *, keep: TaskConfig | None = None
) -> TaskConfig:
    """Return ``config`` with every template written out, ready to be saved with a model.

    A template that ``config`` leaves at None is taken from ``keep`` (the one the model was trained
    with) where that names the same task, then from the task's wording for ``reader``. Tasks
    without wordings of their own are left as they are.
    """
    if keep is not None and keep.task == config.task:
        config = replace(
            config,
            query_template=_first(config.query_template, keep.query_template),
            target_template=_first(config.target_template, keep.target_template),
        )
    return task.worded(config, reader)


def _first(value: str | None, otherwise: str | None) -> str | None:
    return otherwise if value is None else value


def _literals(template: str) -> tuple[str, str]:
    """Return the words before the first field and after the last one."""
    parts = list(string.Formatter().parse(template))
    begin = parts[0][0] if parts and parts[0][1] is not None else ""
    end = parts[-1][0] if parts and parts[-1][1] is None else ""
    return _bare(begin), _bare(end)


def _bare(text: str) -> str:
    return _SENTINEL.sub("", text).strip()
