"""FEVER (Thorne et al. 2018): claims that Wikipedia supports, refutes or leaves open."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any, ClassVar

from atlas_lm.data.official_dataset import LeftOut, OfficialDataset, distinct
from atlas_lm.data.official_files import OpenedFile
from atlas_lm.runtime.errors import InputError, did_you_mean
from atlas_lm.tasks import fields

OPEN = "NOT ENOUGH INFO"
LABELS = ("SUPPORTS", "REFUTES", OPEN)


class Fever(OfficialDataset):
    """``{id, claim, label, evidence_pages}``; claims of the hidden test set have no label."""

    name: ClassVar[str] = "fever"
    task: ClassVar[str] = "fever"
    summary: ClassVar[str] = "FEVER, two- or three-way, from the official JSONL"
    example: ClassVar[str] = (
        "atlas-lm prepare fever train.jsonl shared_task_dev.jsonl --out data/fever"
    )
    shots: ClassVar[tuple[int, ...]] = (15, 65)
    stratum: ClassVar[str | None] = "label"

    def __init__(self, ways: int = 3) -> None:
        self._ways = ways

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Add the number of labels."""
        parser.add_argument(
            "--ways",
            type=int,
            choices=[2, 3],
            default=3,
            help=f"2 leaves claims out whose label is {OPEN} (default: 3)",
        )

    @classmethod
    def from_arguments(cls, args: argparse.Namespace) -> Fever:
        """Return the data set with the options of the command line."""
        return cls(args.ways)

    @property
    def options(self) -> dict[str, Any]:
        """The number of labels."""
        return {"ways": self._ways}

    def convert(self, row: Any, *, place: str, file: OpenedFile) -> dict[str, Any] | LeftOut:
        """Return the claim with its label; see `OfficialDataset.convert`."""
        made: dict[str, Any] = {
            "id": fields.identifier(row, "id", place=place),
            "claim": fields.text(row, "claim", place=place).strip(),
        }
        label = row.get("label")
        if label is None:
            if file.split != "test":
                raise fields.missing(row, "label", place=place)
            return made
        if label not in LABELS:
            hint = did_you_mean(str(label), LABELS)
            raise InputError(f"{place}: label {label!r}{hint}; the labels are {', '.join(LABELS)}")
        if self._ways == 2 and label == OPEN:
            return LeftOut(f"{OPEN} (--ways 2)")
        pages = list(distinct(_pages(row.get("evidence"), place=place)))
        return {**made, "label": label} | ({"evidence_pages": pages} if pages else {})


def _pages(evidence: Any, *, place: str) -> Iterator[str]:
    """Yield the titles of the pages in ``[[[annotation, evidence, page, line], …], …]``."""
    try:
        for group in evidence or ():
            for _, _, page, _ in group:
                if page is not None:
                    yield (
                        page.replace("_", " ")
                        .replace("-LRB-", "(")
                        .replace("-RRB-", ")")
                        .replace("-COLON-", ":")
                    )
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{place}: evidence is {fields.show(evidence)}; expected lists of "
            "[annotation id, evidence id, page, line]"
        ) from error
