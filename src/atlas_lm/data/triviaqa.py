"""TriviaQA (Joshi et al. 2017), unfiltered and filtered.

The official *unfiltered* files give ``train``, ``dev`` and ``test``; the test answers were never
published. The *filtered* set of open-domain work (Lee et al. 2019; Min et al. 2019) is made of the
same questions: what is official dev is its test set, and a tenth of the official train questions
(8,837 of 87,622) is its dev set. Which ones is a list that others published; without it as many
are drawn by seed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import orjson

from atlas_lm.data.official_dataset import LeftOut, OfficialDataset, need_answers, strings
from atlas_lm.data.official_files import OpenedFile, split_in
from atlas_lm.data.official_rows import json_rows
from atlas_lm.data.official_shots import divide, split_off
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.files import read_json, sha256_file
from atlas_lm.tasks import fields

DEV_SHARE = 8_837 / 87_622
"""Of the train questions, in the filtered set's dev split."""
_HIDDEN = "<unk>"
"""The answer that the Hub's copy writes where none was published."""


class TriviaQA(OfficialDataset):
    """``{id, question, answers, target}``: every alias is accepted, the value is the target."""

    name: ClassVar[str] = "triviaqa"
    task: ClassVar[str] = "qa"
    summary: ClassVar[str] = "TriviaQA, unfiltered and filtered, from the official JSON"
    example: ClassVar[str] = (
        "atlas-lm prepare triviaqa triviaqa-unfiltered.tar.gz --out data/triviaqa"
    )
    suffixes: ClassVar[tuple[str, ...]] = (".json", ".parquet")

    def __init__(self, dev_ids: str | None = None) -> None:
        if dev_ids is not None and not Path(dev_ids).is_file():
            raise InputError(f"--dev-ids {dev_ids}: no such file; give a JSON list of questions")
        self._dev_ids = dev_ids

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Add which train questions are the filtered set's dev questions."""
        parser.add_argument(
            "--dev-ids",
            metavar="FILE",
            help="JSON list of the train questions, by id or by position from 0, that are dev in "
            "the filtered set (default: 8,837 of 87,622 drawn with a fixed seed)",
        )

    @classmethod
    def from_arguments(cls, args: argparse.Namespace) -> TriviaQA:
        """Return the data set with the options of the command line."""
        return cls(args.dev_ids)

    @property
    def options(self) -> dict[str, Any]:
        """What decides the filtered set's dev split."""
        return {"dev_ids": sha256_file(self._dev_ids) if self._dev_ids else None}

    def wanted(self, name: PurePosixPath) -> bool:
        """Return whether a file holds questions: not evidence, nor the verified subset again."""
        verified = name.name.startswith("verified-")
        return name.suffix in self.suffixes and not verified and split_in(name) is not None

    def rows(self, file: OpenedFile) -> Iterator[tuple[str, Any]]:
        """Yield the elements of ``Data``."""
        return json_rows(file, key="Data")

    def convert(self, row: Any, *, place: str, file: OpenedFile) -> dict[str, Any] | LeftOut:
        """Return the question with every alias; see `OfficialDataset.convert`."""
        lower = "question" in row
        question = fields.text(row, "question" if lower else "Question", place=place).strip()
        id = fields.identifier(row, "question_id" if lower else "QuestionId", place=place)
        answer = row.get("answer" if lower else "Answer")
        value, aliases = "", tuple[str, ...]()
        if answer is not None:
            if not isinstance(answer, dict):
                raise InputError(
                    f"{place}: Answer is {fields.show(answer)}; expected an object with Value and "
                    "Aliases"
                )
            value = str(answer.get("value" if lower else "Value") or "").strip()
            aliases = strings(answer, "aliases" if lower else "Aliases", place=place) or strings(
                answer, "normalized_aliases" if lower else "NormalizedAliases", place=place
            )
        value = "" if value == _HIDDEN else value
        answers = tuple(dict.fromkeys((*([value] if value else []), *aliases)))
        need_answers(answers, place=place, file=file)
        made = {"id": id, "question": question}
        return (
            {**made, "answers": list(answers), "target": value or answers[0]} if answers else made
        )

    def finish(self, out: Path) -> None:
        """Write the filtered set beside the unfiltered one, as far as its files are there."""
        train, dev, filtered = out / "train.jsonl", out / "dev.jsonl", out / "filtered"
        if dev.exists():
            filtered.mkdir()
            (filtered / "test.jsonl").write_bytes(dev.read_bytes())
        if not train.exists():
            if self._dev_ids:
                raise InputError("--dev-ids: there are no train questions to take dev from")
            return
        with open(train, "rb") as file:
            count = sum(1 for _ in file)
        if self._dev_ids:
            wanted = _dev_ids(Path(self._dev_ids), train, count)
            rest = filtered / "train.jsonl"
            is_dev = lambda line: orjson.loads(line)["id"] in wanted  # noqa: E731
            divide(train, filtered / "dev.jsonl", is_dev, rest=rest)
        elif count > 1:
            split_off(
                train,
                filtered / "dev.jsonl",
                max(1, round(count * DEV_SHARE)),
                option="the filtered set's dev split",
                rest=filtered / "train.jsonl",
            )


def _dev_ids(path: Path, train: Path, count: int) -> frozenset[str]:
    """Return the ids that the file lists, by id or by position.

    Raises:
        InputError: it is no list of those, or names a question that is not in train.
    """
    listed = read_json(path, what="a JSON list of question ids or positions")
    if not isinstance(listed, list) or not all(
        isinstance(one, str | int) and not isinstance(one, bool) for one in listed
    ):
        raise InputError(f"{path}: expected a JSON list of question ids or of positions from 0")
    with open(train, "rb") as file:
        ids = [orjson.loads(line)["id"] for line in file]
    known = frozenset(ids)
    for one in listed:
        if (isinstance(one, int) and not 0 <= one < count) or (
            isinstance(one, str) and one not in known
        ):
            raise InputError(
                f"{path}: {one!r} is none of the {count:,} train questions; give the list that "
                "belongs to the unfiltered train file"
            )
    return frozenset(ids[one] if isinstance(one, int) else one for one in listed)
