"""Fact checking: a claim and one label of a few."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from atlas_lm.runtime.errors import InputError, did_you_mean
from atlas_lm.tasks import fields
from atlas_lm.tasks.base import ReaderKind, TaskConfig, TemplatedTask, Templates
from atlas_lm.types import Example


class FeverTask(TemplatedTask):
    """``{claim, label}``: FEVER (Thorne et al. 2018). Each label is written as a word.

    The words are those of ``task.choices.labels`` where it names any; a label outside it is
    refused.
    """

    templates: ClassVar[Mapping[ReaderKind, Templates]] = {
        "fid": Templates("question: {claim} answer: <extra_id_0>", "<extra_id_0> {answer}"),
        "causal": Templates("{words}? {claim}", "{answer}"),
    }
    labels: ClassVar[Mapping[str, str]] = {
        "SUPPORTS": "true",
        "REFUTES": "false",
        "NOT ENOUGH INFO": "maybe",
    }
    """The task's own labels and words."""
    asked_field = "claim"
    answer_field = "label"
    query_fields = ("claim", "words")
    target_fields = ("answer",)

    def __init__(self, config: TaskConfig) -> None:
        super().__init__(config)
        self.words = dict(config.choices.labels or self.labels)
        if len(set(self.words.values())) < max(len(self.words), 2):
            raise InputError(
                f"task.choices.labels={self.words}: give two labels or more, each its own word"
            )

    def process(self, row: Mapping[str, Any], *, place: str) -> Example:
        """Return the example a row describes; see `Task.process`."""
        claim = fields.text(row, "claim", place=place)
        label = fields.optional_text(row, "label", place=place)
        if label is not None and label not in self.words:
            raise InputError(
                f"{place}: label {label!r} is not one of {', '.join(self.words)}"
                f"{did_you_mean(label, self.words)}; mend it, drop the row, or set "
                "task.choices.labels"
            )
        word = None if label is None else self.words[label]
        words = tuple(self.words.values())
        listed = ", ".join(words[:-1]) + f" or {words[-1]}"
        return Example(
            query=self.query_wording.format(claim=claim, words=listed.capitalize()),
            target="" if word is None else self.target_wording.format(answer=word),
            answers=() if word is None else (word,),
            choices=tuple(self.target_wording.format(answer=word) for word in words),
            options=words,
            sought=claim,
            measures=("accuracy",),
            **fields.common(row, known=("claim", "label"), place=place),
        )


class Fever2Task(FeverTask):
    """FEVER of two labels, as in KILT: claims without enough evidence are left out."""

    labels: ClassVar[Mapping[str, str]] = {"SUPPORTS": "true", "REFUTES": "false"}
