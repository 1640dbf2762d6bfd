"""The rows of a JSONL file, one JSON object a line."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from atlas_lm.runtime.errors import InputError
from atlas_lm.tasks import fields

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_rows(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the line number, from 1, and the JSON object of every line of a ``.jsonl[.gz]`` file.

    Raises:
        InputError: no such file, an empty file, or a line that is not a JSON object.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a directory" if path.is_dir() else "no such file"
        raise InputError(f"{path}: {what}; give a data file with one JSON object a line")
    line = 0
    for line, content in _lines(path):
        yield line, parse_row(content, place=f"{path}:{line}", first=line == 1)
    if line == 0:
        raise InputError(f"{path}: the file is empty; expected one JSON object a line")


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield from enumerate(file, start=1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(
            f"{path}: not a whole gzip file ({error}); compress it again or drop the .gz ending"
        ) from error


def parse_row(content: bytes, *, place: str, first: bool) -> dict[str, Any]:
    """Return the JSON object on a line; ``first`` says whether it is the first of its file.

    Raises:
        InputError: the line is blank or something else.
    """
    if first:
        content = content.removeprefix(_BYTE_ORDER_MARK)
    if not content.strip():
        raise InputError(f"{place}: blank line; remove it, every line must be one JSON object")
    try:
        row = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise InputError(
            f"{place}: malformed JSON ({_reason(error, content, first=first)}); "
            "every line must be one JSON object"
        ) from error
    if not isinstance(row, dict):
        raise InputError(f"{place}: {fields.show(row)}; every line must be one JSON object")
    return row


def _reason(error: orjson.JSONDecodeError, content: bytes, *, first: bool) -> str:
    if first and content.lstrip()[:1] in (b"[", b"{") and len(content.strip()) == 1:
        return "the file is one JSON document over many lines, not JSONL"
    if content[:2] == b"\x1f\x8b":
        return "the file is gzip-compressed; give it the ending .gz"
    return f"{error.msg} at column {error.colno}"
