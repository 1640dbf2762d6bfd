"""WebQuestions (Berant et al. 2013): questions whose answers are written as a Freebase list."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from atlas_lm.data.official_dataset import (
    LeftOut,
    OfficialDataset,
    distinct,
    need_answers,
    strings,
)
from atlas_lm.data.official_files import OpenedFile
from atlas_lm.runtime.errors import InputError
from atlas_lm.tasks import fields

_DESCRIPTION = re.compile(r'\(description\s+(?:"((?:[^"\\]|\\.)*)"|([^()"]*))\)')
_LIST = re.compile(rf"\s*\(list(?:\s*{_DESCRIPTION.pattern})*\s*\)\s*")
_ESCAPED = re.compile(r"\\(.)")


class WebQuestions(OfficialDataset):
    """``{question, answers}`` of ``{utterance, targetValue}``."""

    name: ClassVar[str] = "webq"
    task: ClassVar[str] = "qa"
    summary: ClassVar[str] = "WebQuestions, from the official JSON"
    example: ClassVar[str] = (
        "atlas-lm prepare webq webquestions.examples.train.json.bz2 "
        "webquestions.examples.test.json.bz2 --dev 361 --out data/webq"
    )

    def convert(self, row: Any, *, place: str, file: OpenedFile) -> dict[str, Any] | LeftOut:
        """Return ``{question, answers, url}``; see `OfficialDataset.convert`."""
        if "utterance" not in row and "question" in row:
            question = fields.text(row, "question", place=place)
            answers = strings(row, "answers", place=place)
        else:
            question = fields.text(row, "utterance", place=place)
            answers = descriptions(fields.text(row, "targetValue", place=place), place=place)
        need_answers(answers, place=place, file=file)
        made = {"question": question.strip(), "answers": list(answers)}
        return {**made, "url": row["url"]} if isinstance(row.get("url"), str) else made


def descriptions(value: str, *, place: str) -> tuple[str, ...]:
    """Return the answers of ``(list (description A) (description "B C"))``.

    Raises:
        InputError: it is written otherwise.
    """
    if not _LIST.fullmatch(value):
        raise InputError(
            f"{place}: targetValue {value[:80]!r}; expected "
            '(list (description Word) (description "Several words"))'
        )
    return distinct(
        _ESCAPED.sub(r"\1", quoted) if quoted else bare
        for quoted, bare in _DESCRIPTION.findall(value)
    )
