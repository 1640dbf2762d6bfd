"""One line of a passage file: bytes to `Passage`, with errors that name file, line and remedy."""

from __future__ import annotations

from typing import Any

import orjson

from atlas_lm.runtime.errors import InputError, did_you_mean
from atlas_lm.types import Passage


def parse_passage(line: bytes, place: str, line_number: int) -> Passage:
    """Return the passage on a line.

    ``id`` and ``text`` are required strings; ``title`` and ``section`` are strings where given
    (null counts as absent); all other fields become ``metadata``. ``place`` and the number
    together say where the line is.

    Raises:
        InputError: the line is no such object.
    """
    try:
        record = orjson.loads(line)
        passage_id, text = record.pop("id"), record.pop("text")
        title, section = record.pop("title", None), record.pop("section", None)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _fault(line, f"{place}{line_number}") from None
    title = "" if title is None else title
    section = "" if section is None else section
    if type(passage_id) is type(text) is type(title) is type(section) is str:
        return Passage(passage_id, text, title, section, record)
    fields = {"id": passage_id, "text": text, "title": title, "section": section}
    name, value = next((n, v) for n, v in fields.items() if type(v) is not str)
    raise InputError(
        f"{place}{line_number}: field {name!r} is {_kind(value)} "
        f"({_shown(orjson.dumps(value))}); it must be a string"
    )


def checked_id(line: bytes, place: str, line_number: int) -> str:
    """Return the id of the passage on a line, without making the passage.

    Raises:
        InputError: the line is no passage; see `parse_passage`.
    """
    try:
        record = orjson.loads(line)
        strings = (record["id"], record["text"], record.get("title", ""), record.get("section", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _fault(line, f"{place}{line_number}") from None
    passage_id, text, title, section = strings
    if type(passage_id) is type(text) is type(title) is type(section) is str:
        return passage_id
    return parse_passage(line, place, line_number).id


def _fault(line: bytes, place: str) -> InputError:
    """Say what is wrong with a line that is not an object with ``id`` and ``text``."""
    if not line.strip():
        return InputError(f"{place}: blank line; write one JSON object per line, remove this one")
    if line.startswith(b"\xef\xbb\xbf"):
        return InputError(f"{place}: byte order mark; save the file as UTF-8 without BOM")
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as error:
        return InputError(
            f"{place}: byte {error.start} ({line[error.start]:#04x}) is not UTF-8; "
            "save the file as UTF-8"
        )
    try:
        record = orjson.loads(line)
    except ValueError as error:
        return InputError(
            f"{place}: malformed JSON ({error}): {_shown(line)}; write one JSON object per line"
        )
    if not isinstance(record, dict):
        return InputError(
            f"{place}: {_kind(record)} instead of an object: {_shown(line)}; "
            'write {"id": ..., "text": ...}'
        )
    missing = next(name for name in ("id", "text") if name not in record)
    return InputError(
        f"{place}: no field {missing!r}{did_you_mean(missing, record)}; "
        f"the fields are {', '.join(sorted(map(repr, record))) or 'none'}"
    )


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    return "null" if value is None else names.get(type(value), "a number")


def _shown(line: bytes) -> str:
    text = line.decode("utf-8", "replace").strip()
    return text if len(text) <= 80 else text[:77] + "..."
