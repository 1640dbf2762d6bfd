"""Recipes: TOML files read into the components' own dataclasses, with dotted overrides."""

from __future__ import annotations

import dataclasses
import tomllib
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import tomli_w

from atlas_lm.model import AtlasConfig
from atlas_lm.objectives import ObjectiveConfig
from atlas_lm.retrieve import ContextConfig
from atlas_lm.runtime.errors import InputError, did_you_mean
from atlas_lm.runtime.files import atomic_path
from atlas_lm.runtime.structure import structure, unstructure
from atlas_lm.staleness import StalenessConfig
from atlas_lm.tasks import TaskConfig
from atlas_lm.training import TrainingConfig
from atlas_lm.training.lora import LoRAConfig
from atlas_lm.types import Generation

Config = TypeVar("Config")


@dataclass(frozen=True, kw_only=True)
class HalfConfig:
    """One half of the model: where its weights are and how it is set."""

    path: str = ""
    """Directory, Hub id or package:NAME."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings that replace the ones saved with it; see the reader's and the retriever's."""
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    """Train low-rank adapters in place of the half's own weights."""


@dataclass(frozen=True, kw_only=True)
class MixConfig:
    """One source of a mixture of tasks."""

    task: str = ""
    """Its task; empty: the recipe's own."""
    path: str = ""
    """Its data file; empty for tasks that make their examples of the passages."""
    weight: float = 1.0
    """Its share of the examples, relative to the others' weights."""
    shots: int = 0
    """Draw this many of its examples by data.shots_seed; 0 takes all."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the questions and the passages are."""

    train: str = ""
    """Training examples: JSONL (.gz, .zst) or a directory of save_to_disk. Empty with task mlm, lm
    or section, whose examples are made of the passages."""
    mix: tuple[MixConfig, ...] = ()
    """Several sources instead of one, mixed by weight; a [[data.mix]] table each."""
    validation: str = ""
    """Questions for the evaluations during training; none where empty."""
    shots: int = 0
    """Draw this many training questions by seed; 0 takes all."""
    shots_seed: int = 0
    """Seed of the draw."""
    validation_limit: int = 0
    """Evaluate on the first so many validation questions; 0 for all."""
    index: str = ""
    """An index made for this retriever; where empty it is built from `passages` into the run."""
    passages: tuple[str, ...] = ()
    """Passage files, JSONL."""

    def __post_init__(self) -> None:
        if self.mix and (self.train or self.shots):
            name = "train" if self.train else "shots"
            raise InputError(
                f"data.{name}={getattr(self, name)!r} has no effect beside data.mix; write it as "
                "path or shots of one of its tables"
            )


OF_AN_UPDATE = ("reader_loss", "retriever_loss", "kl", "entropy_gold", "entropy_retriever")
"""Numbers of a training step that no evaluation measures."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A joint training run: the tree of the components' own options."""

    kind: Literal["joint"] = "joint"
    """Joint training of reader and retriever."""
    title: str = ""
    """What the run is, in a few words, for its card."""
    reader: HalfConfig = field(default_factory=HalfConfig)
    retriever: HalfConfig = field(default_factory=HalfConfig)
    data: DataConfig = field(default_factory=DataConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    context: ContextConfig = field(default_factory=ContextConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    staleness: StalenessConfig = field(default_factory=StalenessConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    generation: Generation = field(default_factory=Generation)

    def __post_init__(self) -> None:
        if self.objective.pool_candidates and self.training.signal_round > 1:
            raise InputError(
                "objective.pool_candidates=true pools the queries of one step, and "
                f"training.signal_round={self.training.signal_round} gathers several; "
                "leave one of them out"
            )
        if self.context.passages_from == "none" and self.retriever.path:
            raise InputError(
                f"retriever.path={self.retriever.path!r} has no effect with "
                "context.passages_from=none (closed book); leave one of them out"
            )
        if self.data.index and self.data.passages:
            raise InputError(
                f"data.index={self.data.index!r} and data.passages are both given; an index "
                "holds its own passages: leave one of them out"
            )
        best = self.training.best_metric.removeprefix("-")
        if best in OF_AN_UPDATE and self.data.validation and self.training.evaluate_every:
            raise InputError(
                f"training.best_metric={self.training.best_metric!r} is of an update, and "
                "data.validation is evaluated: take one of its metrics, such as exact_match"
            )

    @property
    def model(self) -> AtlasConfig:
        """What is saved with the model."""
        return AtlasConfig(
            task=self.task,
            context=self.context,
            objective=self.objective,
            generation=self.generation,
        )


def find_recipe(name: str | Path) -> Path:
    """Return the path of a recipe: a file, or the name of one that ships with the package.

    Raises:
        InputError: there is no such file and no such recipe; the nearest name is given.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = {recipe.stem: recipe for folder in _RECIPES for recipe in folder.glob("*.toml")}
    if path.stem in shipped and path.suffix in {"", ".toml"}:
        return shipped[path.stem]
    raise InputError(
        f"{name}: no such recipe{did_you_mean(path.stem, shipped)}; "
        f"give a .toml file or one of {', '.join(sorted(shipped))}"
    )


_RECIPES = (Path(__file__).parent / "recipes", Path(__file__).parents[2] / "recipes")


def load_recipe(path: str | Path | None, overrides: Sequence[str], config: type[Config]) -> Config:
    """Return the recipe at ``path`` (or the defaults) with ``table.key=value`` overrides applied.

    Raises:
        InputError: the file is missing or not TOML, a key is unknown (the nearest one is named),
            a value has the wrong type, or two values contradict each other.
    """
    table = read_toml(path) if path is not None else {}
    for override in overrides:
        _apply_override(table, override, config)
    return structure(table, config, place=str(path) if path is not None else "recipe")


def with_overrides(config: Config, overrides: Sequence[str], *, place: str) -> Config:
    """Return ``config`` with ``table.key=value`` overrides applied.

    Raises:
        InputError: as `load_recipe` does; the message begins with ``place``.
    """
    table = unstructure(config)
    for override in overrides:
        _apply_override(table, override, type(config))
    return structure(table, type(config), place=place)


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


def parse_override(override: str) -> tuple[str, Any]:
    """Return the key and the value of ``key=value``; the value is read as TOML, else as text.

    Raises:
        InputError: there is no key or no equals sign.
    """
    key, text = _split(override)
    return key, _parse_value(text)


def _split(override: str) -> tuple[str, str]:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise InputError(f"override {override!r}: write it as table.key=value")
    return key.strip(), text


def _apply_override(table: dict[str, Any], override: str, config: type) -> None:
    key, text = _split(override)
    *tables, name = key.split(".")
    for part in tables:
        inner = table.setdefault(part, {})
        if not isinstance(inner, dict):
            raise InputError(f"override {override!r}: {part!r} is a value, not a table")
        table = inner
    value = _parse_value(text)
    is_text = _kind_of(config, [*tables, name]) in (str, str | None)
    table[name] = text if is_text and not isinstance(value, str) else value


def _kind_of(config: Any, keys: Sequence[str]) -> Any:
    """Return the type of a dotted key; None where there is no such key."""
    for key in keys:
        if not (isinstance(config, type) and dataclasses.is_dataclass(config)):
            return None
        config = typing.get_type_hints(config).get(key)
    return config


def _parse_value(text: str) -> Any:
    """Read a value as TOML; what is not TOML is a string, so quotes may be left out."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
