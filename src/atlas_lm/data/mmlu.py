"""MMLU (Hendrycks et al. 2021): 57 subjects of questions with four options.

The official few-shot rows are the dev split: five a subject. So the *5-shot* setting trains on
``subjects/NAME/dev.jsonl``, *5-shot multi-task* on ``dev.jsonl`` (all subjects), and the *full*
setting on ``full.jsonl``: the auxiliary rows and dev.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, ClassVar

from atlas_lm.data.official_dataset import LeftOut, OfficialDataset
from atlas_lm.data.official_files import OpenedFile
from atlas_lm.data.official_rows import csv_rows, parquet_rows
from atlas_lm.runtime.errors import InputError
from atlas_lm.tasks import fields

AUXILIARY = "auxiliary_train"
_SPLITS = ("dev", "val", "test", AUXILIARY)
_NAMED = re.compile(r"_(dev|val|test)$")


class Mmlu(OfficialDataset):
    """``{id, question, options, answer, subject}`` of ``question,A,B,C,D,letter``."""

    name: ClassVar[str] = "mmlu"
    task: ClassVar[str] = "multiple_choice"
    summary: ClassVar[str] = "MMLU: by subject, together, and with the auxiliary rows"
    example: ClassVar[str] = "atlas-lm prepare mmlu data.tar --out data/mmlu"
    splits: ClassVar[tuple[str, ...]] = _SPLITS
    suffixes: ClassVar[tuple[str, ...]] = (".csv", ".parquet")
    shots: ClassVar[tuple[int, ...]] = ()

    def wanted(self, name: PurePosixPath) -> bool:
        """Return whether a file of a directory or archive holds questions.

        The Hub's copy has every row in ``all/`` and again by subject; the former are taken.
        """
        if name.suffix == ".parquet" and len(name.parts) > 1 and name.parts[-2] != "all":
            return False
        return name.suffix in self.suffixes and self.split_of(name) is not None

    def split_of(self, name: PurePosixPath) -> str | None:
        """Return the split by ``NAME_test.csv`` or by directory; val and dev are not the same.

        What lies in ``auxiliary_train`` is of it whatever its name: ``mc_test.csv`` is MCTest.
        """
        if AUXILIARY in name.parts[:-1]:
            return AUXILIARY
        if found := _NAMED.search(name.stem):
            return found.group(1)
        for part in reversed(name.parts):
            for split in _SPLITS:
                if part == split or part.startswith(f"{split}-"):
                    return split
            if part.startswith("validation"):
                return "val"
        return None

    def rows(self, file: OpenedFile) -> Iterator[tuple[str, Any]]:
        """Yield the cells of each row, or the rows of the Hub's Parquet."""
        return parquet_rows(file) if file.name.suffix == ".parquet" else csv_rows(file)

    def read(self, raw: Any, *, place: str) -> Any:
        """Return a row as ``{question, options, answer, subject}``; see `OfficialDataset.read`."""
        if isinstance(raw, dict):
            number = raw.get("answer")
            letter = (
                string.ascii_uppercase[number]
                if isinstance(number, int) and number < 26
                else number
            )
            return {**raw, "choices": raw.get("choices"), "answer": letter}
        if len(raw) < 4:
            raise InputError(
                f"{place}: {len(raw)} cells ({', '.join(raw)[:60]!r}); expected question, options "
                "and the letter of the answer, with cells quoted that hold commas"
            )
        return {"question": raw[0], "choices": raw[1:-1], "answer": raw[-1].strip()}

    def convert(self, row: Any, *, place: str, file: OpenedFile) -> dict[str, Any] | LeftOut:
        """Return the question with its options by letter; see `OfficialDataset.convert`."""
        question = fields.text(row, "question", place=place).strip()
        choices, answer = row["choices"], row["answer"]
        if not isinstance(choices, list) or not 2 <= len(choices) <= 26:
            raise InputError(
                f"{place}: choices is {fields.show(choices)}; expected 2 to 26 options"
            )
        options = dict(zip(string.ascii_uppercase, map(str.strip, map(str, choices)), strict=False))
        if not all(options.values()):
            blank = next(letter for letter, text in options.items() if not text)
            raise InputError(f"{place}: option {blank} is blank; write something there")
        if not isinstance(answer, str) or answer not in options:
            raise InputError(
                f"{place}: answer {answer!r} is none of the options {', '.join(options)}; give the "
                "letter of one"
            )
        stem = file.name.stem
        own = stem if file.split == AUXILIARY else _NAMED.sub("", stem)
        own = AUXILIARY if file.name.suffix == ".parquet" else own
        subject = row.get("subject") or own
        line = re.search(r"\d+$", place)
        return {
            "id": f"{subject}-{file.split}-{line.group() if line else 0}",
            "question": question,
            "options": options,
            "answer": answer,
            "subject": subject,
        }

    def outputs(self, row: Mapping[str, Any], file: OpenedFile) -> tuple[str, ...]:
        """Return the split, the split of its subject, and ``full`` for what it is trained on."""
        split = file.split
        if split == AUXILIARY:
            return (AUXILIARY, "full")
        own = (split, f"subjects/{row['subject']}/{split}")
        return (*own, "full") if split == "dev" else own
