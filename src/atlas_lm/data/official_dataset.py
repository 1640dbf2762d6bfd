"""What a data set is to `prepare`: its official files, and what becomes of each row."""

from __future__ import annotations

import argparse
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from atlas_lm.data.official_files import OpenedFile, split_in
from atlas_lm.data.official_rows import json_rows, parsed
from atlas_lm.runtime.errors import InputError
from atlas_lm.tasks import fields

SUFFIXES = (".json", ".jsonl", ".parquet")


@dataclass(frozen=True)
class LeftOut:
    """A row that is sound but not wanted, and why."""

    reason: str


class OfficialDataset(ABC):
    """A data set whose official files become task JSONL; one object for one run of `prepare`."""

    name: ClassVar[str]
    task: ClassVar[str]
    """The task that reads what is written."""
    summary: ClassVar[str]
    """One line for ``--help``."""
    example: ClassVar[str]
    splits: ClassVar[tuple[str, ...]] = ("train", "dev", "test")
    suffixes: ClassVar[tuple[str, ...]] = SUFFIXES
    """Of official files in a directory or archive, without those of packed files."""
    shots: ClassVar[tuple[int, ...]] = (64,)
    """Few-shot splits drawn where nothing else is asked for."""
    stratum: ClassVar[str | None] = None
    """The field whose values get equal shares of a few-shot split."""

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Add the options that only this data set has: none."""
        return

    @classmethod
    def from_arguments(cls, args: argparse.Namespace) -> OfficialDataset:
        """Return the data set with the options of the command line."""
        return cls()

    @property
    def options(self) -> dict[str, Any]:
        """The options that decide what is written, for the manifest."""
        return {}

    def wanted(self, name: PurePosixPath) -> bool:
        """Return whether a file of a directory or archive is one of the official files."""
        return name.suffix in self.suffixes

    def split_of(self, name: PurePosixPath) -> str | None:
        """Return the split that the name of a file, or of a directory above it, says."""
        return split_in(name)

    def rows(self, file: OpenedFile) -> Iterator[tuple[str, Any]]:
        """Yield the place and the raw row of every row of a file."""
        return json_rows(file)

    def read(self, raw: Any, *, place: str) -> Any:
        """Return a raw row as `convert` takes it.

        Raises:
            InputError: it is malformed.
        """
        return parsed(raw, place=place)

    @abstractmethod
    def convert(self, row: Any, *, place: str, file: OpenedFile) -> dict[str, Any] | LeftOut:
        """Return a row as the task reads it, without ``id`` where the official row has none.

        Raises:
            InputError: the row is malformed.
        """

    def outputs(self, row: Mapping[str, Any], file: OpenedFile) -> tuple[str, ...]:
        """Return the files, without suffix, that a row is written to."""
        return (file.split,)

    def finish(self, out: Path) -> None:
        """Write what is made of several rows, such as other splits, into the directory: nothing."""
        return


def need_answers(answers: tuple[str, ...], *, place: str, file: OpenedFile) -> None:
    """Refuse a row without answers, except in a test file.

    Raises:
        InputError: there is no answer.
    """
    if not answers and file.split != "test":
        raise InputError(f"{place}: no answer; only rows of a test file may come without one")


def distinct(texts: Iterator[str] | list[str]) -> tuple[str, ...]:
    """Return the texts that are not blank, each once, stripped, in order."""
    return tuple(dict.fromkeys(text.strip() for text in texts if text.strip()))


def strings(row: Mapping[str, Any], name: str, *, place: str) -> tuple[str, ...]:
    """Return a list of strings, blank ones left out; empty where the field is absent or null.

    Raises:
        InputError: the field is something else.
    """
    value = row.get(name)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InputError(f"{place}: {name} is {fields.show(value)}; it must be a list of strings")
    return distinct(value)
