"""Made-up worlds for tests: small saved halves and their files, drawn once for each directory.

    from tests.tinyworld.world import draw, taught

`draw` takes a second: rows, both halves at random, the drawn encoder's index. `taught` takes some
twenty seconds: the reader has had its lessons, too. Both give a `TinyRun`, whose fields are paths.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from atlas_lm.cli.joint import run_joint, training_examples
from atlas_lm.cli.tiny import KS, TinyRun, draw_world, joint_config, open_at, teach_reader
from atlas_lm.config import RunConfig
from atlas_lm.data.tinyworld import TinyWorldConfig
from atlas_lm.evaluation import measure
from atlas_lm.model import Atlas
from atlas_lm.tasks import load_examples
from atlas_lm.types import Example

SMALL = TinyWorldConfig(people=8, lessons=64, seed=0)
"""A world of 80 passages."""


def draw(path: Path, config: TinyWorldConfig = SMALL) -> TinyRun:
    """Write a world, both halves as drawn, and the index."""
    run = TinyRun(path)
    draw_world(run, config.seed, config)
    return run


def taught(path: Path, config: TinyWorldConfig, *, overrides: Sequence[str] = ()) -> TinyRun:
    """`draw`, and then teach the reader to read."""
    run = draw(path, config)
    teach_reader(run, config.seed, overrides=overrides)
    return run


def config_of(run: TinyRun, *overrides: str) -> RunConfig:
    """Return the recipe over this world; the reader as drawn where it has had no lessons."""
    config = joint_config(run, 0, overrides=overrides)
    if run.taught_reader.is_dir():
        return config
    reader = dataclasses.replace(config.reader, path=str(run.drawn / "reader"))
    return dataclasses.replace(config, reader=reader)


def open_run(run: TinyRun, *overrides: str) -> tuple[Atlas, RunConfig]:
    """Return the model before joint training, its index open, and its recipe."""
    config = config_of(run, *overrides)
    return open_at(config, run.index), config


def train_joint(run: TinyRun, out: Path, *overrides: str) -> Atlas:
    """Train both halves together into the run directory ``out``; return the model."""
    atlas, config = open_run(run, *overrides)
    run_joint(atlas, config, training_examples(config, atlas.config.task), [], out)
    return atlas


def questions(run: TinyRun, atlas: Atlas, split: str = "test") -> list[Example]:
    """Return the questions of a split."""
    return load_examples(run.world / f"{split}.jsonl", atlas.config.task)


def scores(run: TinyRun, atlas: Atlas, *, answers: bool = True) -> dict[str, float]:
    """Return recall and, where asked for, exact match on the questions never trained on."""
    asked = questions(run, atlas)
    return measure(atlas, asked, ks=KS, answers=answers, bsz=64).metrics.means()
