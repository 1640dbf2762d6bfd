"""TempLAMA (Dhingra et al. 2022): statements with a blank whose answer depends on the year."""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any, ClassVar

import orjson

from atlas_lm.data.official_dataset import LeftOut, OfficialDataset, distinct, need_answers
from atlas_lm.data.official_files import OpenedFile
from atlas_lm.runtime.errors import InputError
from atlas_lm.tasks import fields

BLANK = "_X_"


class TempLAMA(OfficialDataset):
    """``{id, question, answers, date, relation}``: the question is the statement with its blank."""

    name: ClassVar[str] = "templama"
    task: ClassVar[str] = "qa"
    summary: ClassVar[str] = "TempLAMA: statements with a blank, dated"
    example: ClassVar[str] = (
        "atlas-lm prepare templama train.json val.json test.json --years 2017,2020 --changed "
        "--out data/templama"
    )

    def __init__(self, years: tuple[str, ...] = (), *, changed: bool = False) -> None:
        if changed and len(years) < 2:
            raise InputError("--changed compares years; give at least two: --years 2017,2020")
        self._years = years
        self._changed = changed

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Add which years, and whether answers must differ between them."""
        parser.add_argument("--years", metavar="Y,Y", help="only these (default: all)")
        parser.add_argument(
            "--changed",
            action="store_true",
            help="only statements with an answer in every one of the years, and not the same",
        )

    @classmethod
    def from_arguments(cls, args: argparse.Namespace) -> TempLAMA:
        """Return the data set with the options of the command line."""
        years = tuple(part.strip() for part in (args.years or "").split(",") if part.strip())
        for year in years:
            if not (year.isdigit() and len(year) == 4):
                raise InputError(f"--years {args.years!r}: write years as 2017,2020")
        return cls(years, changed=args.changed)

    @property
    def options(self) -> dict[str, Any]:
        """The years."""
        return {"years": list(self._years), "changed": self._changed}

    def convert(self, row: Any, *, place: str, file: OpenedFile) -> dict[str, Any] | LeftOut:
        """Return the statement with its answers; see `OfficialDataset.convert`."""
        query = fields.text(row, "query", place=place).strip()
        if query.count(BLANK) != 1:
            raise InputError(f"{place}: query {query[:80]!r}: expected the blank {BLANK} once")
        date = fields.identifier(row, "date", place=place)
        answers = distinct(_names(row.get("answer"), place=place))
        need_answers(answers, place=place, file=file)
        if self._years and date not in self._years:
            return LeftOut(f"not of {', '.join(self._years)}")
        made: dict[str, Any] = {"id": fields.identifier(row, "id", place=place)}
        made |= {"question": query, "answers": list(answers), "date": date}
        return made | ({"relation": row["relation"]} if row.get("relation") else {})

    def finish(self, out: Path) -> None:
        """Keep the statements whose answers changed, where that was asked for."""
        if not self._changed:
            return
        for path in sorted(out.glob("*.jsonl")):
            answers: dict[str, dict[str, frozenset[str]]] = defaultdict(dict)
            lines = path.read_bytes().splitlines(keepends=True)
            for row in map(orjson.loads, lines):
                answers[row["question"]][row["date"]] = frozenset(row["answers"])
            changed = {
                question
                for question, dated in answers.items()
                if len(dated) == len(self._years) and len(set(dated.values())) > 1
            }
            kept = [line for line in lines if orjson.loads(line)["question"] in changed]
            if not kept:
                raise InputError(f"--changed: no {path.stem} statement changed between the years")
            path.write_bytes(b"".join(kept))


def _names(answer: Any, *, place: str) -> list[str]:
    """Return the names of ``[{wikidata_id, name}, …]``, or of one such object."""
    listed = [answer] if isinstance(answer, dict) else answer or []
    if not isinstance(listed, list) or not all(
        isinstance(one, dict) and isinstance(one.get("name"), str) for one in listed
    ):
        raise InputError(
            f"{place}: answer is {fields.show(answer)}; expected a list of "
            '{"wikidata_id": …, "name": …}'
        )
    return [one["name"] for one in listed]
