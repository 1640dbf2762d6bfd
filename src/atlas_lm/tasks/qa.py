"""Questions with answers, and the plain query-and-target task."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, ClassVar

from atlas_lm.tasks import fields
from atlas_lm.tasks.base import ReaderKind, TaskConfig, TemplatedTask, Templates
from atlas_lm.types import Example


class QATask(TemplatedTask):
    """``{question, answers[, target]}``: the query words the question, the target one answer.

    The retriever is asked the question as it is, without the words that the reader's query has
    around it: an encoder takes those for content.

    The target is the row's ``target`` where it has one, else the first of ``answers``, or one drawn
    by seed. ``answers`` defaults to the target. A row with neither gives an example without
    answers, which can be asked but not trained on.
    """

    templates: ClassVar[Mapping[ReaderKind, Templates]] = {
        "fid": Templates("question: {question} answer: <extra_id_0>", "<extra_id_0> {answer}"),
        "causal": Templates("{question}", "{answer}"),
    }
    asked_field = "question"
    query_fields = ("question",)
    target_fields = ("answer",)

    def process(self, row: Mapping[str, Any], *, place: str) -> Example:
        """Return the example a row describes; see `Task.process`."""
        question = fields.text(row, "question", place=place)
        target = fields.optional_text(row, "target", place=place)
        answers = fields.optional_texts(row, "answers", place=place)
        answer = target if target is not None else choose_target(question, answers, self.config)
        return Example(
            query=self.query_wording.format(question=question),
            target="" if answer is None else self.target_wording.format(answer=answer),
            answers=answers or (() if target is None else (target,)),
            sought=question,
            **fields.common(row, known=("question", "answers", "target"), place=place),
        )


class BaseTask(TemplatedTask):
    """``{query, target[, answers]}``, taken word for word unless templates are set."""

    templates: ClassVar[Mapping[ReaderKind, Templates]] = {
        "fid": Templates("{query}", "{target}"),
        "causal": Templates("{query}", "{target}"),
    }
    asked_field = "query"
    query_fields = ("query",)
    target_fields = ("target",)

    def process(self, row: Mapping[str, Any], *, place: str) -> Example:
        """Return the example a row describes; see `Task.process`."""
        query = fields.text(row, "query", place=place)
        target = fields.optional_text(row, "target", place=place)
        answers = fields.optional_texts(row, "answers", place=place)
        return Example(
            query=self.query_wording.format(query=query),
            target="" if target is None else self.target_wording.format(target=target),
            answers=answers or (() if target is None else (target,)),
            unworded=query,
            **fields.common(row, known=("query", "answers", "target"), place=place),
        )


def choose_target(question: str, answers: tuple[str, ...] | None, config: TaskConfig) -> str | None:
    """Return the answer to train on: the first, or one drawn by seed; None where there is none.

    The draw depends on the seed, the question and the answers, not on the row's place in its file.
    """
    if not answers:
        return None
    if not config.sample_target:
        return answers[0]
    content = "\0".join((str(config.seed), question, *answers)).encode()
    return answers[int.from_bytes(hashlib.sha256(content).digest()[:8]) % len(answers)]
