"""Every printed command is one that the command line takes, and every key one that recipes have."""

from __future__ import annotations

import dataclasses
import shlex
import typing
from collections.abc import Mapping

import pytest

from atlas_lm.cli import VERBS, WITH_SUBVERBS, build_parser
from atlas_lm.cli.nano_config import NanoConfig
from atlas_lm.cli.pretrain_config import PretrainConfig, SupervisedRun
from atlas_lm.config import (
    RunConfig,
    find_recipe,
    load_recipe,
    parse_override,
    read_toml,
    with_overrides,
)
from atlas_lm.model import AtlasConfig
from atlas_lm.reader.causal_settings import CausalSettings
from atlas_lm.reader.settings import ReaderSettings
from atlas_lm.retriever.settings import EncoderSettings
from atlas_lm.runtime.errors import InputError
from tests.docs.commands import PAGES, Command, forgiving, keys_of_page, of_help, of_page

KINDS = {
    "joint": RunConfig,
    "contrastive": PretrainConfig,
    "supervised": SupervisedRun,
    "nano": NanoConfig,
}
MODEL = ["--model", "DIR", "--index", "DIR"]
"""What docs/tasks.md writes as M behind a verb."""


@pytest.fixture(autouse=True)
def _a_machine_with_gpus(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)


@pytest.mark.parametrize("page", [*PAGES, "--help"])
def test_printed_commands_are_taken(page, capsys):
    wrong = []
    for command in of_help() if page == "--help" else of_page(page):
        try:
            check(command)
        except (SystemExit, InputError) as error:
            said = capsys.readouterr().err.strip().splitlines()[-1:] or [str(error)]
            wrong.append(f"{command}\n    {said[0]}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("page", PAGES)
def test_named_keys_are_those_of_recipes(page):
    assert [key for key in keys_of_page(page) if not is_key(key)] == []


def test_a_command_that_is_not_taken_is_found():
    with pytest.raises(SystemExit):
        check(Command("page", "answer --model M --indx I", whole=False))
    with pytest.raises(SystemExit):
        check(Command("page", "train recipe.toml", whole=True))
    with pytest.raises(InputError, match=r"unknown key 'training\.total'"):
        check(Command("page", "train quickstart --out runs/r training.total=5", whole=True))
    with pytest.raises(InputError, match="unknown key"):
        check(Command("page", "score M --data F --set reader.settings.reads=5", whole=True))


def check(command: Command) -> None:
    """Parse a command, and its overrides with the recipe that it names."""
    verb, *rest = shlex.split(command.text)
    if rest[:1] == ["M"]:
        rest = MODEL + rest[1:]
    if rest[:1] in (["VERB"], ["WHAT"]):
        return
    if verb not in VERBS:
        raise InputError(f"{verb}: no such verb")
    parser = build_parser(verb)[0]
    if not command.whole:
        forgiving(parser)
    args = (parser.parse_args if verb in WITH_SUBVERBS else parser.parse_intermixed_args)(rest)
    recipe = getattr(args, "recipe", None) or getattr(args, "gradients", None)
    check_overrides(recipe, getattr(args, "overrides", None) or [])
    check_changes(getattr(args, "set", []))


def check_overrides(recipe: str | None, overrides: list[str]) -> None:
    """Apply overrides to the recipe that ships under this name, or to a joint one of one's own."""
    own = recipe is None or recipe == "RECIPE" or recipe.endswith(".toml")
    if own and not (recipe or "").startswith("recipes/"):
        load_recipe(None, overrides, RunConfig)
    else:
        path = find_recipe(recipe)
        load_recipe(path, overrides, KINDS[read_toml(path).get("kind", "joint")])


def check_changes(changes: list[str]) -> None:
    """Apply what ``--set`` says to a model."""
    of_reader = [change for change in changes if change.startswith("reader.")]
    with_overrides(AtlasConfig(), [c for c in changes if c not in of_reader], place="--set")
    for change in of_reader:
        key = parse_override(change)[0]
        if not is_key(key):
            raise InputError(f"--set: unknown key {key}")


def is_key(key: str) -> bool:
    """Return whether a dotted key is one of a recipe of some kind."""
    first, *rest = key.split(".")
    return any(_is_key(config, (first, *rest)) for config in KINDS.values())


def _is_key(config: type, path: tuple[str, ...]) -> bool:
    name, *rest = path
    if name == "settings":
        tables = (ReaderSettings, CausalSettings, EncoderSettings)
        return not rest or any(_is_key(table, tuple(rest)) for table in tables)
    hint = typing.get_type_hints(config).get(name)
    if hint is None or not rest:
        return hint is not None
    inner = next((t for t in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(t)), None)
    if inner is None:
        return issubclass(typing.get_origin(hint) or hint, Mapping)
    return _is_key(inner, tuple(rest))
