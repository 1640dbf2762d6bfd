"""Recipes: TOML files read into the components' own dataclasses, with dotted overrides."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import tomli_w

from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.files import atomic_path
from atlas_lm.runtime.structure import structure, unstructure

Config = TypeVar("Config")


def load_recipe(path: str | Path | None, overrides: Sequence[str], config: type[Config]) -> Config:
    """Return the recipe at ``path`` (or the defaults) with ``table.key=value`` overrides applied.

    Raises:
        InputError: the file is missing or not TOML, a key is unknown (the nearest one is named),
            a value has the wrong type, or two values contradict each other.
    """
    table = read_toml(path) if path is not None else {}
    for override in overrides:
        _apply_override(table, override)
    return structure(table, config, place=str(path) if path is not None else "recipe")


def save_recipe(path: str | Path, config: Any) -> None:
    """Write the resolved recipe as TOML, atomically; `load_recipe` gives it back."""
    with atomic_path(path) as temporary:
        temporary.write_text(tomli_w.dumps(unstructure(config)), "utf-8")


def read_toml(path: str | Path) -> dict[str, Any]:
    """Read a TOML file that must exist.

    Raises:
        InputError: no such file, or not TOML (the line is named).
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such recipe; give a .toml file, for example from recipes/")
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid TOML: {error}") from error


def _apply_override(table: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise InputError(f"override {override!r}: write it as table.key=value")
    *tables, name = key.strip().split(".")
    for part in tables:
        inner = table.setdefault(part, {})
        if not isinstance(inner, dict):
            raise InputError(f"override {override!r}: {part!r} is a value, not a table")
        table = inner
    table[name] = _parse_value(text)


def _parse_value(text: str) -> Any:
    """Read a value as TOML; what is not TOML is a string, so quotes may be left out."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
