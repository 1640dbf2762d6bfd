"""``atlas-lm quickstart --tiny``: the whole path on a made-up world, from chance to near perfect.

Four ordinary runs, each a recipe: the reader learns to read (passages given), then reader and
retriever learn together under every objective, starting from the same two halves.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atlas_lm.cli.joint import open_halves, run_joint, training_examples
from atlas_lm.cli.together import build_index
from atlas_lm.config import DataConfig, HalfConfig, RunConfig, find_recipe, load_recipe
from atlas_lm.data.tinymodels import tiny_reader, tiny_retriever
from atlas_lm.data.tinyworld import TinyWorld, TinyWorldConfig, write_tinyworld
from atlas_lm.evaluation import Comparison, Evaluation, compare_records, measure
from atlas_lm.evaluation.report import comparisons_to_json
from atlas_lm.model import Atlas
from atlas_lm.passages.store import PassageStore
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.logs import notice
from atlas_lm.tasks import load_examples
from atlas_lm.types import Example

KS = (1, 5)
"""Depths at which recall is measured."""


@dataclass(frozen=True)
class TinyRun:
    """Where one made-up world lies on disk: its rows, the drawn halves, the run directories."""

    out: Path

    @property
    def world(self) -> Path:
        """Passages, questions and lessons."""
        return self.out / "world"

    @property
    def drawn(self) -> Path:
        """``reader/`` and ``retriever/`` as they were drawn."""
        return self.out / "drawn"

    @property
    def index(self) -> Path:
        """The passages as the drawn retriever embeds them."""
        return self.out / "index"

    @property
    def taught_reader(self) -> Path:
        """The reader after its lessons."""
        return self.out / "lessons" / "model" / "reader"

    def objective(self, name: str) -> Path:
        """The run directory of an objective, with ``model/`` and ``index/``."""
        return self.out / name


@dataclass(frozen=True)
class ObjectiveResult:
    """What training under one objective did."""

    after: Evaluation
    comparisons: tuple[Comparison, ...]
    """Each metric before and after on the same questions, none of them trained on."""
    seconds: float
    """Wall time of the joint run with its measurement."""


@dataclass(frozen=True)
class TinyResult:
    """What came of the made-up world under each objective."""

    world: TinyWorld
    """What was drawn."""
    as_drawn: Evaluation
    """Both halves as they were drawn."""
    before: Evaluation
    """The reader after its lessons, the retriever as it was drawn: where joint training starts."""
    objectives: dict[str, ObjectiveResult]
    seconds: dict[str, float]
    """Wall time of each part: ``world``, ``lessons`` and every objective."""

    @property
    def chance(self) -> dict[str, float]:
        """What chance gives: passages ranked at random, a thing of the right kind for an answer."""
        ranked = {f"recall_at_{k}": min(1.0, k / self.passages) for k in KS}
        return {**ranked, "exact_match": 1 / len(self.world.people)}

    @property
    def passages(self) -> int:
        """Passages in the index."""
        return len(self.world.passages)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain numbers, for JSON."""
        return {
            "passages": self.passages,
            "questions": len(self.before.records),
            "chance": self.chance,
            "as_drawn": self.as_drawn.metrics.means(),
            "before": self.before.metrics.means(),
            "objectives": {
                name: {
                    "after": result.after.metrics.means(),
                    "comparisons": comparisons_to_json(result.comparisons),
                }
                for name, result in self.objectives.items()
            },
            "seconds": self.seconds,
        }


def run_tinyworld(
    out: str | Path,
    objectives: Sequence[str] = ("pdist", "loop", "adist", "emdr2"),
    seed: int = 0,
    *,
    overrides: Sequence[str] = (),
) -> TinyResult:
    """Draw a world and both halves, teach the reader to read, train under each objective, measure.

    Metrics are on questions that no run has trained on. ``out`` holds the world, the drawn halves
    and one run directory each for the lessons and the objectives, with model and index.

    Args:
        out: a directory that is new or empty.
        objectives: names of objectives; each run starts from the same two halves.
        seed: of the world, the weights and the order of the questions.
        overrides: ``table.key=value`` for the joint runs.

    Raises:
        InputError: ``out`` holds an earlier run, or an override is wrong.
        KeyboardInterrupt: it was asked to stop; the run under way has saved a checkpoint.
    """
    run = TinyRun(Path(out))
    if run.out.is_dir() and any(run.out.iterdir()):
        raise InputError(f"{run.out}: not empty; choose a new directory")
    clock = _Clock()
    world = draw_world(run, seed)
    clock.lap("world")
    joint = joint_config(run, seed, overrides=overrides)
    untaught = dataclasses.replace(joint, reader=HalfConfig(path=str(run.drawn / "reader")))
    test = load_examples(run.world / "test.jsonl", joint.task)
    as_drawn = _measured(open_at(untaught, run.index), test)
    teach_reader(run, seed)
    before = _measured(open_at(joint, run.index), test)
    clock.lap("lessons")
    results = {}
    for name in objectives:
        after = train_objective(run, joint, name, test)
        comparisons = compare_records(before.records, after.records)
        results[name] = ObjectiveResult(after, comparisons, clock.lap(name))
    return TinyResult(world, as_drawn, before, results, clock.laps)


def draw_world(run: TinyRun, seed: int, config: TinyWorldConfig | None = None) -> TinyWorld:
    """Write the world, both halves as drawn, and the index; return the world."""
    world = write_tinyworld(run.world, config or TinyWorldConfig(seed=seed))
    retriever = tiny_retriever(world.words, seed=seed)
    tiny_reader(world.words, seed=seed).save_pretrained(run.drawn / "reader")
    retriever.save_pretrained(run.drawn / "retriever")
    store = PassageStore.open([run.world / "passages.jsonl"])
    build_index(Atlas(retriever, None), store, run.index)
    return world


def teach_reader(run: TinyRun, seed: int, *, overrides: Sequence[str] = ()) -> None:
    """Train the drawn reader on lessons, whose passages are given; save it as `taught_reader`."""
    config = load_recipe(
        find_recipe("tinyworld_lessons"), [f"training.seed={seed}", *overrides], RunConfig
    )
    config = dataclasses.replace(
        config,
        reader=HalfConfig(path=str(run.drawn / "reader")),
        data=DataConfig(train=str(run.world / "lessons.jsonl")),
    )
    atlas = open_halves(config)
    _train(atlas, config, run.out / "lessons")


def joint_config(run: TinyRun, seed: int, *, overrides: Sequence[str] = ()) -> RunConfig:
    """Return the recipe ``tinyworld`` over this world, from the taught reader."""
    config = load_recipe(find_recipe("tinyworld"), [f"training.seed={seed}", *overrides], RunConfig)
    return dataclasses.replace(
        config,
        reader=HalfConfig(path=str(run.taught_reader)),
        retriever=HalfConfig(path=str(run.drawn / "retriever")),
        data=DataConfig(train=str(run.world / "train.jsonl"), index=str(run.index)),
    )


def train_objective(
    run: TinyRun, config: RunConfig, objective: str, test: Sequence[Example]
) -> Evaluation:
    """Train both halves together under an objective; return how they do on the test questions."""
    config = dataclasses.replace(
        config, objective=dataclasses.replace(config.objective, objective=objective)
    )
    notice(f"{objective}: reader and retriever learn together")
    atlas = open_at(config, run.index)
    _train(atlas, config, run.objective(objective))
    return _measured(atlas, test)


def open_at(config: RunConfig, index: Path) -> Atlas:
    """Return both halves of a recipe with an index open."""
    atlas = open_halves(config)
    atlas.open_index(index)
    return atlas


def _train(atlas: Atlas, config: RunConfig, out: Path) -> None:
    """Train to the end; a run that was asked to stop ends the whole."""
    outcome = run_joint(atlas, config, training_examples(config, atlas.config.task), [], out)
    if not outcome.finished:
        raise KeyboardInterrupt


def _measured(atlas: Atlas, test: Sequence[Example]) -> Evaluation:
    return measure(atlas, test, ks=KS, bsz=64)


class _Clock:
    """Wall time between laps."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> float:
        """Note the seconds since the last lap under ``name`` and return them."""
        now = time.perf_counter()
        self.laps[name], self._last = now - self._last, now
        return self.laps[name]
