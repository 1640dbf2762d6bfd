"""Natural Questions (Kwiatkowski et al. 2019): the open form, the annotated form, DPR's forms.

An annotated row becomes open as in Lee et al. (2019, section 6.1): a question is kept when it has a
short answer of at most five tokens, and its evidence document is discarded. Every such span of
every annotator is an accepted answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, ClassVar

from atlas_lm.data.anserini_topics import parse_topic
from atlas_lm.data.official_dataset import (
    LeftOut,
    OfficialDataset,
    distinct,
    need_answers,
    strings,
)
from atlas_lm.data.official_files import OpenedFile
from atlas_lm.data.official_rows import json_rows
from atlas_lm.runtime.errors import InputError
from atlas_lm.tasks import fields

LONGEST_ANSWER = 5
"""Tokens of a short answer, at most."""
_TAG = re.compile(r"<[^<>\s]+>")


class NaturalQuestions(OfficialDataset):
    """``{question, answers}`` of NQ-open, simplified or full NQ, DPR's JSON or its table."""

    name: ClassVar[str] = "nq"
    task: ClassVar[str] = "qa"
    summary: ClassVar[str] = "Natural Questions: NQ-open, annotated NQ, or DPR's files"
    example: ClassVar[str] = (
        "atlas-lm prepare nq NQ-open.train.jsonl test=NQ-open.dev.jsonl --dev 8757 --out data/nq"
    )
    suffixes: ClassVar[tuple[str, ...]] = (".json", ".jsonl", ".parquet", ".csv")

    def wanted(self, name: PurePosixPath) -> bool:
        """Return whether a file is of the data set; EfficientQA's are another one."""
        return name.suffix in self.suffixes and "efficientqa" not in name.name

    def rows(self, file: OpenedFile) -> Iterator[tuple[str, Any]]:
        """Yield the rows; those of DPR's ``.csv``, which is a table of tabs, as lines."""
        if file.name.suffix != ".csv":
            return json_rows(file)
        return (
            (f"{file.place}:{number}", line.rstrip(b"\r\n"))
            for number, line in enumerate(file.content, start=1)
        )

    def read(self, raw: Any, *, place: str) -> Any:
        """Return a row as an object; see `OfficialDataset.read`."""
        if (
            isinstance(raw, bytes)
            and raw.strip()
            and not raw.lstrip(b"\xef\xbb\xbf \t").startswith(b"{")
        ):
            question = parse_topic(raw.decode("utf-8", "replace"), place=place)
            return {"question": question.text, "answers": list(question.answers)}
        return super().read(raw, place=place)

    def convert(self, row: Any, *, place: str, file: OpenedFile) -> dict[str, Any] | LeftOut:
        """Return ``{question, answers}``; see `OfficialDataset.convert`."""
        if "question_text" in row or "annotations" in row:
            try:
                return _annotated(row, place=place)
            except (AttributeError, KeyError, TypeError) as error:
                raise InputError(
                    f"{place}: annotations or document_tokens are not as Natural Questions writes "
                    f"them ({type(error).__name__}: {error}); give the official file as it was"
                ) from error
        question = fields.text(row, "question", place=place).strip()
        answers = strings(row, "answers" if "answers" in row else "answer", place=place)
        need_answers(answers, place=place, file=file)
        made: dict[str, Any] = {"question": question, "answers": list(answers)}
        gold = _gold(row, place=place)
        return {name: value for name, value in {**made, "gold_passage_ids": gold}.items() if value}


def _annotated(row: Mapping[str, Any], *, place: str) -> dict[str, Any] | LeftOut:
    question = fields.text(row, "question_text", place=place).strip()
    tokens = _tokens(row, place=place)
    annotations = row.get("annotations")
    if not isinstance(annotations, list):
        raise InputError(
            f"{place}: annotations is {fields.show(annotations)}; it must be a list "
            "(the files of the hidden test set have none)"
        )
    spans = [
        _span(short, tokens, place=place)
        for annotation in annotations
        for short in annotation.get("short_answers") or ()
    ]
    if not spans:
        spoken = any(one.get("yes_no_answer") in {"YES", "NO"} for one in annotations)
        return LeftOut("yes or no" if spoken else "no short answer")
    short = [" ".join(span) for span in spans if len(span) <= LONGEST_ANSWER]
    answers = distinct(short)
    if not answers:
        return LeftOut(f"no short answer of at most {LONGEST_ANSWER} tokens")
    made = {"question": question, "answers": list(answers)}
    return made if row.get("example_id") is None else {"id": str(row["example_id"]), **made}


def _tokens(row: Mapping[str, Any], *, place: str) -> Sequence[str]:
    """Return the document's tokens, those of HTML too: spans count them."""
    if row.get("document_tokens") is not None:
        return [
            f"<{token['token'].strip('<>')}>" if token.get("html_token") else token["token"]
            for token in row["document_tokens"]
        ]
    return fields.text(row, "document_text", place=place).split(" ")


def _span(short: Mapping[str, Any], tokens: Sequence[str], *, place: str) -> list[str]:
    start, end = short.get("start_token"), short.get("end_token")
    if (
        not isinstance(start, int)
        or not isinstance(end, int)
        or not 0 <= start < end <= len(tokens)
    ):
        raise InputError(
            f"{place}: short answer from token {start} to {end} of a document of {len(tokens)}; "
            "the spans and the document do not belong together"
        )
    return [token for token in tokens[start:end] if not _TAG.fullmatch(token)]


def _gold(row: Mapping[str, Any], *, place: str) -> list[str]:
    """Return the ids of DPR's positive passages in its own table of Wikipedia."""
    positive = row.get("positive_ctxs") or []
    if not isinstance(positive, list) or not all(isinstance(one, dict) for one in positive):
        raise InputError(
            f"{place}: positive_ctxs is {fields.show(positive)}; it must be a list of passages"
        )
    ids = (str(one.get("passage_id") or one.get("psg_id") or "") for one in positive)
    return list(distinct(ids))
