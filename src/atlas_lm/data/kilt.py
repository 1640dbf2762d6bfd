"""KILT (Petroni et al. 2021): eleven data sets in one format.

Each data set gets its own directory. The rows keep ``id``, ``input`` and of every output the answer
and the pages it comes from. TriviaQA's rows come without their questions, which are TriviaQA's own.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from atlas_lm.data.official_dataset import LeftOut, OfficialDataset
from atlas_lm.data.official_files import (
    OpenedFile,
    Source,
    damage_explained,
    files_on_disk,
    locate,
    opened,
)
from atlas_lm.data.official_rows import parsed
from atlas_lm.data.triviaqa import TriviaQA
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.files import sha256_file
from atlas_lm.tasks import fields

NAMES = (
    "aidayago2",
    "cweb",
    "eli5",
    "fever",
    "hotpotqa",
    "nq",
    "structured_zeroshot",
    "trex",
    "triviaqa",
    "wned",
    "wow",
)
"""The data sets under the names of their files."""
PROVENANCE = (
    "wikipedia_id",
    "title",
    "section",
    "start_paragraph_id",
    "start_character",
    "end_paragraph_id",
    "end_character",
)
"""What is kept of a piece of evidence."""
_NAME = re.compile(rf"(?<![a-z0-9])({'|'.join(NAMES)})(?![a-z0-9])")


class Kilt(OfficialDataset):
    """``{id, input, output: [{answer, provenance}]}``; rows of test files have no output."""

    name: ClassVar[str] = "kilt"
    task: ClassVar[str] = "kilt_NAME, NAME being the directory's"
    summary: ClassVar[str] = "KILT: any of its eleven data sets, each into its own directory"
    example: ClassVar[str] = (
        "atlas-lm prepare kilt nq-train-kilt.jsonl nq-dev-kilt.jsonl "
        "triviaqa-dev_id-kilt.jsonl --triviaqa triviaqa-unfiltered.tar.gz --out data/kilt"
    )
    suffixes: ClassVar[tuple[str, ...]] = (".jsonl", ".parquet")

    def __init__(self, triviaqa: tuple[str, ...] = ()) -> None:
        self._triviaqa = triviaqa
        self._questions: dict[str, str] | None = None

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Add where TriviaQA's questions are."""
        parser.add_argument(
            "--triviaqa",
            nargs="+",
            default=[],
            metavar="SOURCE",
            help="TriviaQA's official files, whose questions KILT's TriviaQA rows lack",
        )

    @classmethod
    def from_arguments(cls, args: argparse.Namespace) -> Kilt:
        """Return the data set with the options of the command line."""
        return cls(tuple(args.triviaqa))

    @property
    def options(self) -> dict[str, Any]:
        """The files of TriviaQA's questions, by name and SHA-256."""
        return {
            "triviaqa": [
                {"name": source.named, "file": path.name, "sha256": sha256_file(path)}
                for source, path in _triviaqa_files(self._triviaqa)
            ]
        }

    def wanted(self, name: PurePosixPath) -> bool:
        """Return whether a file of a directory is of one of the eleven."""
        return name.suffix in self.suffixes and _dataset_of(name) is not None

    def convert(self, row: Any, *, place: str, file: OpenedFile) -> dict[str, Any] | LeftOut:
        """Return the row without what no task reads; see `OfficialDataset.convert`."""
        if _dataset_of(file.name) is None:
            raise InputError(
                f"{file.place}: its name says none of KILT's data sets ({', '.join(NAMES)}); "
                "give the file its official name, such as nq-dev-kilt.jsonl"
            )
        id = fields.identifier(row, "id", place=place)
        asked = row.get("input")
        if not asked and _dataset_of(file.name) == "triviaqa":
            asked = self._question(id, place=place)
        else:
            asked = fields.text(row, "input", place=place)
        made: dict[str, Any] = {"id": id, "input": asked}
        outputs = [
            kept
            for number, output in enumerate(_listed(row, "output", place=place))
            if (kept := _output(output, place=f"{place}: output[{number}]"))
        ]
        if outputs:
            made["output"] = outputs
        elif file.split != "test":
            raise InputError(f"{place}: no output; only rows of a test file may come without one")
        return made

    def outputs(self, row: Mapping[str, Any], file: OpenedFile) -> tuple[str, ...]:
        """Return the split in the data set's own directory."""
        return (f"{_dataset_of(file.name)}/{file.split}",)

    def _question(self, id: str, *, place: str) -> str:
        if not self._triviaqa:
            raise InputError(
                f"{place}: row {id!r} has no input, since KILT leaves TriviaQA's questions to "
                "TriviaQA; give its official files with --triviaqa"
            )
        if self._questions is None:
            self._questions = _triviaqa_questions(self._triviaqa)
        if id not in self._questions:
            raise InputError(
                f"{place}: question {id!r} is not in {', '.join(self._triviaqa)}; give the "
                "unfiltered files of every split"
            )
        return self._questions[id]


def _dataset_of(name: PurePosixPath) -> str | None:
    for part in reversed(name.parts):
        if found := _NAME.search(part.lower()):
            return found.group(1)
    return None


def _output(output: Any, *, place: str) -> dict[str, Any] | None:
    """Return what is kept of an output; None where it says neither answer nor pages."""
    if not isinstance(output, dict):
        raise InputError(f'{place} is {fields.show(output)}; expected {{"answer", "provenance"}}')
    answer = output.get("answer")
    if answer is not None and not isinstance(answer, str):
        raise InputError(f"{place}: answer is {fields.show(answer)}; it must be a string")
    kept: dict[str, Any] = {"answer": answer} if answer and answer.strip() else {}
    pages = [_page(page, place=place) for page in _listed(output, "provenance", place=place)]
    return kept | ({"provenance": pages} if pages else {}) or None


def _page(page: Any, *, place: str) -> dict[str, Any]:
    if not isinstance(page, dict):
        raise InputError(f'{place}: provenance {fields.show(page)}; expected {{"wikipedia_id"}}')
    made = {name: page[name] for name in PROVENANCE if page.get(name) is not None}
    made["wikipedia_id"] = fields.identifier(page, "wikipedia_id", place=f"{place}: provenance")
    return made


def _listed(row: Mapping[str, Any], name: str, *, place: str) -> list[Any]:
    value = row.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise InputError(f"{place}: {name} is {fields.show(value)}; it must be a list of objects")
    return value


def _triviaqa_files(sources: tuple[str, ...]) -> list[tuple[Source, Path]]:
    official = TriviaQA()
    located = locate(sources, splits=official.splits, suffixes=official.suffixes)
    return [(source, path) for source in located for path in files_on_disk(source, official)]


def _triviaqa_questions(sources: tuple[str, ...]) -> dict[str, str]:
    """Return TriviaQA's questions by id."""
    official = TriviaQA()
    found: dict[str, str] = {}
    for source, path in _triviaqa_files(sources):
        for file in opened(source, path, official):
            with damage_explained(file.place):
                found.update(_questions(official, file))
    return found


def _questions(official: TriviaQA, file: OpenedFile) -> Iterator[tuple[str, str]]:
    for place, raw in official.rows(file):
        row = parsed(raw, place=place)
        lower = "question" in row
        yield (
            fields.identifier(row, "question_id" if lower else "QuestionId", place=place),
            fields.text(row, "question" if lower else "Question", place=place),
        )
