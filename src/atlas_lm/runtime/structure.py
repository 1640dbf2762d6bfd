"""Tables (TOML, JSON) to frozen dataclasses and back; a misfit is refused by its dotted key."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import cattrs
from cattrs.strategies import configure_union_passthrough

from atlas_lm.runtime.errors import InputError, did_you_mean

Config = TypeVar("Config")


def structure(table: Mapping[str, Any], config: type[Config], *, place: str) -> Config:
    """Return ``table`` as the frozen dataclass ``config``; raise `InputError` for a misfit."""
    _check_keys(table, config, place, ())
    try:
        return _converter().structure(table, config)
    except cattrs.BaseValidationError as error:
        raise InputError(f"{place}: {_first_message(error)}") from error
    except InputError as error:
        raise InputError(f"{place}: {error}") from error


def unstructure(config: Any) -> dict[str, Any]:
    """Return a config as plain tables without the keys that are None (TOML has no null)."""
    return typing.cast("dict[str, Any]", _without_none(_plain(dataclasses.asdict(config))))


def dotted(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested tables as one, with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= dotted(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def changed_from_defaults(config: Any) -> dict[str, Any]:
    """Return ``dotted key -> value`` for every value that is not its dataclass's default."""
    changed: dict[str, Any] = {}
    _collect_changes(config, "", changed)
    return changed


def _collect_changes(config: Any, prefix: str, changed: dict[str, Any]) -> None:
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            _collect_changes(value, f"{prefix}{field.name}.", changed)
            continue
        default = field.default
        if default is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if value != default:
            changed[prefix + field.name] = value


def _check_keys(table: Any, config: type, place: str, path: tuple[str, ...]) -> None:
    known = {field.name: field for field in dataclasses.fields(config)}
    hints = typing.get_type_hints(config)
    for key, value in table.items():
        dotted = ".".join((*path, key))
        if key not in known:
            raise InputError(
                f"{place}: unknown key {dotted!r}{did_you_mean(key, known)}; "
                f"known here: {', '.join(known)}"
            )
        inner = hints[key]
        if dataclasses.is_dataclass(inner) and isinstance(inner, type):
            if not isinstance(value, Mapping):
                raise InputError(f"{place}: {dotted} is a table, not {value!r}")
            _check_keys(value, inner, place, (*path, key))
        if typing.get_origin(inner) is tuple and dataclasses.is_dataclass(
            row := typing.get_args(inner)[0]
        ):
            if not (isinstance(value, list) and all(isinstance(each, Mapping) for each in value)):
                raise InputError(f"{place}: {dotted} is a list of tables, not {value!r}")
            for number, each in enumerate(value):
                _check_keys(each, typing.cast("type", row), place, (*path, f"{key}[{number}]"))


def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(detailed_validation=True)
    for kind in (bool, int, float, str):
        converter.register_structure_hook(kind, _strict(kind))
    converter.register_structure_hook(Path, lambda value, _: Path(_strict(str)(value, str)))
    converter.register_structure_hook_func(_is_literal, _structure_choice)
    configure_union_passthrough(bool | int | float | str | None, converter)
    return converter


def _is_literal(kind: Any) -> bool:
    return typing.get_origin(kind) is typing.Literal


def _structure_choice(value: Any, kind: Any) -> Any:
    choices = typing.get_args(kind)
    if value not in choices:
        known = ", ".join(map(str, choices))
        raise _WrongValueError(
            f"{value!r} is not one of {known}{did_you_mean(str(value), choices)}"
        )
    return value


def _strict(kind: type) -> typing.Callable[[Any, Any], Any]:
    def structure_scalar(value: Any, _: Any) -> Any:
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise _WrongValueError(f"{value!r} is not a {_NAMES[kind]}")
        return value

    return structure_scalar


class _WrongValueError(InputError):
    """A single value that does not fit; the caller adds the dotted key."""


_NAMES = {
    bool: "truth value (true or false)",
    int: "whole number",
    float: "number",
    str: "string",
}


def _first_message(error: BaseException, path: tuple[str, ...] = ()) -> str:
    """Return the innermost message of cattrs' nested errors, with the dotted key it is about."""
    if isinstance(error, cattrs.IterableValidationError | cattrs.ClassValidationError):
        inner = error.exceptions[0]
        for note in getattr(inner, "__notes__", ()):
            name = getattr(note, "name", None)
            if name is not None:
                path = (*path, str(name))
        return _first_message(inner, path)
    where = f"{'.'.join(path)}: " if path else ""
    if isinstance(error, InputError) and not isinstance(error, _WrongValueError):
        return str(error)
    if isinstance(error, KeyError):
        return f"{where}required key {error} is missing"
    return f"{where}{error}"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_without_none(inner) for inner in value]
    return value
