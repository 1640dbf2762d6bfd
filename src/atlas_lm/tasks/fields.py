"""Reading the fields of a raw row, with errors that name the place, the value and the remedy."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from atlas_lm.runtime.errors import InputError, did_you_mean
from atlas_lm.types import Passage

_PASSAGE_FIELDS = frozenset({"id", "text", "title", "section"})
COMMON_FIELDS = frozenset({"id", "passages", "gold_passage_ids", "excluded_passage_ids"})
"""Fields that every task of the package reads; see `common`."""


def common(row: Mapping[str, Any], *, known: Collection[str], place: str) -> dict[str, Any]:
    """Return the parts of an `Example` that every task shares, as keyword arguments.

    These are the id, the given passages, the gold and excluded passage ids, and as metadata every
    field that is neither one of those nor in ``known``.
    """
    example_id = identifier(row, "id", place=place)
    return {
        "id": example_id,
        "passages": given_passages(row, example_id=example_id, place=place),
        "gold_passage_ids": frozenset(identifiers(row, "gold_passage_ids", place=place)),
        "excluded_passage_ids": frozenset(identifiers(row, "excluded_passage_ids", place=place)),
        "metadata": {
            name: value
            for name, value in row.items()
            if name not in COMMON_FIELDS and name not in known
        },
    }


def text(row: Mapping[str, Any], name: str, *, place: str) -> str:
    """Return a field that must be there and must be a string with something in it."""
    if row.get(name) is None:
        raise missing(row, name, place=place)
    return _written(row[name], name, place=place)


def optional_text(row: Mapping[str, Any], name: str, *, place: str) -> str | None:
    """Return a string field, or None where it is absent or null."""
    return None if row.get(name) is None else _written(row[name], name, place=place)


def optional_texts(row: Mapping[str, Any], name: str, *, place: str) -> tuple[str, ...] | None:
    """Return a list of strings, at least one; None where the field is absent or null."""
    value = row.get(name)
    if value is None:
        return None
    if isinstance(value, str):
        raise InputError(f"{place}: {name} is a string; write it as a list: {name}: [{value!r}]")
    if not isinstance(value, list):
        raise InputError(f"{place}: {name} is {show(value)}; it must be a list of strings")
    if not value:
        raise InputError(f"{place}: {name} is an empty list; give at least one, or drop the row")
    return tuple(
        _written(item, f"{name}[{number}]", place=place) for number, item in enumerate(value)
    )


def identifier(row: Mapping[str, Any], name: str, *, place: str) -> str:
    """Return an id, which may be written as a string or a whole number."""
    if row.get(name) is None:
        raise missing(row, name, place=place)
    return _identifier(row[name], name, place=place)


def identifiers(row: Mapping[str, Any], name: str, *, place: str) -> tuple[str, ...]:
    """Return a list of ids; empty where the field is absent or null."""
    value = row.get(name)
    if value is None:
        return ()
    if not isinstance(value, list):
        raise InputError(f"{place}: {name} is {show(value)}; it must be a list of passage ids")
    return tuple(
        _identifier(item, f"{name}[{number}]", place=place) for number, item in enumerate(value)
    )


def given_passages(
    row: Mapping[str, Any], *, example_id: str, place: str
) -> tuple[Passage, ...] | None:
    """Return the passages that the row brings along; None where it brings none.

    A passage without an id gets ``<example id>/<position from 1>``.
    """
    value = row.get("passages")
    if value is None:
        return None
    if not isinstance(value, list):
        raise InputError(f"{place}: passages is {show(value)}; it must be a list of objects")
    return tuple(
        _passage(item, f"{example_id}/{number}", place=f"{place}: passages[{number - 1}]")
        for number, item in enumerate(value, start=1)
    )


def missing(row: Mapping[str, Any], name: str, *, place: str) -> InputError:
    """Return the error for a field that is absent or null."""
    hint = did_you_mean(name, row)
    return InputError(
        f"{place}: missing field {name!r}{hint}; the row has: {', '.join(row) or 'no fields'}"
    )


def show(value: Any) -> str:
    """Return a value and its JSON type for an error message, cut to one short line."""
    written = repr(value)
    kind = _JSON_TYPES.get(type(value), type(value).__name__)
    return f"{kind} {written if len(written) <= 60 else written[:57] + '...'}"


def _passage(item: Any, default_id: str, *, place: str) -> Passage:
    if not isinstance(item, dict):
        raise InputError(f'{place} is {show(item)}; it must be an object {{"title", "text"}}')
    return Passage(
        id=default_id if item.get("id") is None else _identifier(item["id"], "id", place=place),
        text=_string(item, "text", place=place),
        title=_string(item, "title", place=place, default=""),
        section=_string(item, "section", place=place, default=""),
        metadata={name: value for name, value in item.items() if name not in _PASSAGE_FIELDS},
    )


def _string(row: Mapping[str, Any], name: str, *, place: str, default: str | None = None) -> str:
    value = row.get(name)
    if value is None:
        if default is None:
            raise missing(row, name, place=place)
        return default
    if not isinstance(value, str):
        raise InputError(f"{place}: {name} is {show(value)}; it must be a string")
    return value


def _written(value: Any, name: str, *, place: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{place}: {name} is {show(value)}; it must be a string")
    if not value.strip():
        raise InputError(f"{place}: {name} is blank; write something there or drop the row")
    return value


def _identifier(value: Any, name: str, *, place: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise InputError(f"{place}: {name} is {show(value)}; it must be a string or whole number")
    return str(value)


_JSON_TYPES = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "a truth value",
    int: "a number",
    float: "a number",
    type(None): "null",
}
