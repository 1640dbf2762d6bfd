"""The commands that pages and ``--help`` print, and the keys of recipes that they name."""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from atlas_lm.cli import VERBS, build_parser
from atlas_lm.config import RunConfig

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))))
_COMMAND = re.compile(r"(?:(?<![\w\[-])atlas-lm|-m atlas_lm) ([a-z]+\b.*)")


@dataclass(frozen=True)
class Command:
    """A command as it is printed, without ``atlas-lm``."""

    where: str
    text: str
    whole: bool
    """Whether it is to be typed as it stands: a line of its own without an ellipsis."""

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


def of_page(page: str) -> Iterator[Command]:
    """Yield the commands of a page's code blocks, and those within its lines."""
    blocks, prose = _blocks_and_prose((ROOT / page).read_text("utf-8"))
    for line in blocks:
        if found := _COMMAND.search(line):
            yield _command(page, found[1], whole=True)
    for span in spans(prose):
        if found := _COMMAND.fullmatch(span):
            yield _command(page, found[1], whole=False)


def of_help() -> Iterator[Command]:
    """Yield the examples below the options of every verb and of the verbs within it."""
    for verb in VERBS:
        for parser in _with_subparsers(build_parser(verb)[0]):
            for line in (parser.epilog or "").splitlines():
                if found := _COMMAND.search(line):
                    yield _command(f"{parser.prog} --help", found[1], whole=True)


def keys_of_page(page: str) -> Iterator[str]:
    """Yield what a page writes as code and has the form of a joint recipe's key."""
    tables = "|".join(field.name for field in dataclasses.fields(RunConfig))
    key = re.compile(rf"(?!\S*\.json)((?:{tables})(?:\.[a-z_0-9]+)+)(?:=.*)?")
    for span in spans(_blocks_and_prose((ROOT / page).read_text("utf-8"))[1]):
        for word in re.sub(r"\s*=\s*", "=", span).split():
            if found := key.fullmatch(word):
                yield found[1]


def spans(prose: str) -> list[str]:
    """Return what stands between backticks."""
    return [" ".join(found.split()) for found in re.findall(r"`([^`]+)`", prose)]


def _command(where: str, text: str, *, whole: bool) -> Command:
    text = re.sub(r"\s+#\s.*", "", text)
    bare = re.sub(r"(?<=\s)(\.\.\.|…)(?=\s|$)", "", text)
    return Command(where, bare.strip(), whole and bare == text)


def _blocks_and_prose(text: str) -> tuple[list[str], str]:
    """Return the lines of code blocks, continued ones joined, and the rest."""
    blocks, prose, fenced = [], [], False
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced or re.match(r"    \S", line):
            blocks.append(line)
        else:
            prose.append(line)
    return blocks, "\n".join(prose)


def _with_subparsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from _with_subparsers(inner)


def forgiving(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Make nothing required: for a command that is mentioned, not to be typed as it stands."""
    for each in _with_subparsers(parser):
        for group in each._mutually_exclusive_groups:
            group.required = False
        for action in each._actions:
            action.required = False
            if not action.option_strings:
                action.nargs = {None: "?", "+": "*"}.get(action.nargs, action.nargs)
    return parser
