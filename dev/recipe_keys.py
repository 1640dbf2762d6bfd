"""Write docs/recipes.md: every key of every kind of recipe, from the dataclasses that read them.

python dev/recipe_keys.py

A key's type and default are its field's, what it is stands in the docstring below the field. A
table that an earlier one has explained is referred to, with the defaults that differ.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import textwrap
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from atlas_lm.cli.nano_config import NanoConfig
from atlas_lm.cli.pretrain_config import PretrainConfig, SupervisedRun
from atlas_lm.config import RunConfig
from atlas_lm.reader.causal_settings import CausalSettings
from atlas_lm.reader.settings import ReaderSettings
from atlas_lm.retriever.settings import EncoderSettings

PAGE = Path(__file__).parents[1] / "docs" / "recipes.md"
REQUIRED = "required"

OPENING = """\
# Every key of a recipe

Made by `python dev/recipe_keys.py` from the code; edit the docstrings there, not this page.

A recipe is a TOML file; what it leaves out has the default given here. Any key can be set on the
command line, as `table.key=value` after the recipe: `training.total_steps=40`,
`data.passages='["a.jsonl", "b.jsonl"]'`. An unknown key is an error that names the nearest one. The
recipe as it was resolved is written into the run, as `recipe.toml`.

A saved model keeps `[task]`, `[context]`, `[objective]` and `[generation]`. Where one is opened,
`--set table.key=value` changes a key of theirs, or one of `[reader.settings]`.
"""

KINDS: tuple[tuple[str, str, type], ...] = (
    (
        "Joint training",
        '`kind = "joint"`, which may be left out: [training.md](training.md), '
        "[own-corpus.md](own-corpus.md).",
        RunConfig,
    ),
    (
        "Retriever pre-training",
        '`kind = "contrastive"`: a retriever from passages alone; '
        "[pretraining.md](pretraining.md).",
        PretrainConfig,
    ),
    (
        "Supervised retriever training",
        '`kind = "supervised"`: a retriever from judged questions; '
        "[pretraining.md](pretraining.md).",
        SupervisedRun,
    ),
    (
        "A small model in stages",
        '`kind = "nano"`: a reader from nothing, lesson by lesson; [atlas-nano.md](atlas-nano.md).',
        NanoConfig,
    ),
)
"""Heading, opening sentence and dataclass of each kind of recipe."""

SETTINGS: tuple[tuple[str, str, type], ...] = (
    (
        "`[reader.settings]` of a Fusion-in-Decoder reader",
        "T5, mT5, UMT5. They replace what its directory says; where neither says anything, the "
        "defaults hold.",
        ReaderSettings,
    ),
    (
        "`[reader.settings]` of a decoder-only reader",
        "They replace what its directory says; where neither says anything, the defaults hold.",
        CausalSettings,
    ),
    (
        "`[retriever.settings]`",
        "And `[encoder.settings]` of the next two kinds of recipe. They replace what the encoder's "
        "directory says; where neither says anything, the defaults hold.",
        EncoderSettings,
    ),
)
"""Heading, opening and dataclass of what the halves of joint training are set by."""


@dataclasses.dataclass(frozen=True)
class Table:
    """One table of a recipe."""

    name: str
    """Dotted; with two pairs of brackets where it is one of a list."""
    config: type
    defaults: Mapping[str, Any]


def tables_of(config: type, name: str = "", given: Any = None) -> Iterator[Table]:
    """Yield the table that a dataclass reads and those within it, in the order of their fields.

    Args:
        config: the dataclass.
        name: of its table; empty for a whole recipe.
        given: the value that stands for a table left out; None where each key has its own default.
    """
    defaults = {
        field.name: _default(field) if given is None else getattr(given, field.name)
        for field in dataclasses.fields(config)
    }
    inner = _inner_tables(config)
    own = {key: value for key, value in defaults.items() if key not in inner}
    if own:
        yield Table(name, config, own)
    for key, (kind, is_list) in inner.items():
        path = f"{name.strip('[]')}.{key}".lstrip(".")
        yield from tables_of(
            kind, f"[{path}]" if is_list else path, None if is_list else defaults[key]
        )


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return dataclasses.MISSING


def _inner_tables(config: type) -> dict[str, tuple[type, bool]]:
    """Return the fields that are tables: their dataclass, and whether there may be several."""
    found = {}
    for key, hint in typing.get_type_hints(config).items():
        if dataclasses.is_dataclass(hint):
            found[key] = (hint, False)
        elif typing.get_origin(hint) is tuple and dataclasses.is_dataclass(
            typing.get_args(hint)[0]
        ):
            found[key] = (typing.get_args(hint)[0], True)
    return found


def docstrings(config: type) -> dict[str, str]:
    """Return what stands below each field of a dataclass."""
    (made,) = ast.parse(textwrap.dedent(inspect.getsource(config))).body
    assert isinstance(made, ast.ClassDef)
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in zip(made.body, made.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
    }


def page() -> str:
    """Return the whole page."""
    explained: dict[type, list[Table]] = {}
    parts = [OPENING]
    for heading, opening, config in KINDS:
        parts += [f"## {heading}\n", f"{opening}\n", *_sections(config, explained)]
        if config is RunConfig:
            for name, opening, settings in SETTINGS:
                parts += [f"### {name}\n", f"{opening}\n", *_rows(next(tables_of(settings)))]
    return "\n".join(parts)


def _sections(config: type, explained: dict[type, list[Table]]) -> Iterator[str]:
    """Yield a recipe's tables; those of one dataclass share a section."""
    grouped: dict[type, list[Table]] = {}
    for table in tables_of(config):
        grouped.setdefault(table.config, []).append(table)
    referred = []
    for kind, tables in grouped.items():
        if kind in explained:
            referred += [_as(table, explained[kind]) for table in tables]
            continue
        explained[kind] = tables
        names = ", ".join(f"`[{table.name}]`" for table in tables if table.name)
        if names:
            yield f"### {names}\n"
            yield f"{_text((inspect.getdoc(kind) or '').splitlines()[0])}\n"
        yield from _rows(*tables)
    if referred:
        yield "### As above\n"
        yield "\n".join(referred) + "\n"


def _as(table: Table, explained: list[Table]) -> str:
    """Return which table of the same dataclass has been explained, and what differs from it."""

    def differing(earlier: Table) -> list[str]:
        return [
            f"`{key}={_toml(value)}`"
            for key, value in table.defaults.items()
            if value != earlier.defaults[key]
        ]

    nearest = min(explained, key=lambda earlier: len(differing(earlier)))
    but = f", with {', '.join(differing(nearest))} where left out" if differing(nearest) else ""
    return f"- `[{table.name}]`: as `[{nearest.name}]`{but}"


def _rows(*tables: Table) -> Iterator[str]:
    """Yield the keys of tables that one dataclass reads."""
    config = tables[0].config
    hints, meanings = typing.get_type_hints(config), docstrings(config)
    rows = ["| key | value | default | what it is |", "| --- | --- | --- | --- |"]
    for key in tables[0].defaults:
        said = {_shown(table.defaults[key]): table.name for table in tables}
        default = (
            next(iter(said))
            if len(said) == 1
            else ", ".join(f"{value} ({name})" for value, name in said.items())
        )
        cells = (f"`{key}`", _kind(hints[key]), default, _text(meanings[key]))
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    yield "\n".join(rows) + "\n"


def _shown(value: Any) -> str:
    if value is dataclasses.MISSING:
        return REQUIRED
    return "none" if value is None else f"`{_toml(value)}`"


def _toml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _text(docstring: str) -> str:
    return docstring.replace("``", "`").replace("<", "\\<")


_NAMES = {bool: "true or false", int: "whole number", float: "number", str: "text", Any: "any"}


def _kind(hint: Any) -> str:
    """Return a type in the words of TOML."""
    if hint in _NAMES:
        return _NAMES[hint]
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return ", ".join(f"`{_toml(part)}`" for part in parts)
    if origin is tuple:
        return "list" if parts[0] is str else "list of pairs"
    if origin is not None and issubclass(origin, Mapping):
        return "table"
    (kind,) = (part for part in parts if part is not type(None))
    return _kind(kind)


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
