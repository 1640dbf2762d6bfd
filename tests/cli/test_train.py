from __future__ import annotations

import argparse
import itertools
import shlex
import sys

import pytest

from atlas_lm.cli import VERBS, build_parser, main, train
from atlas_lm.cli.train import resume_command
from atlas_lm.config import RunConfig, find_recipe, load_recipe


def asked(*words: str) -> argparse.Namespace:
    parser, _ = build_parser("train")
    return parser.parse_intermixed_args(["a.toml", *words])


def test_a_run_goes_on_where_and_as_it_was_started(monkeypatch):
    plain = "atlas-lm train run/recipe.toml --out run --resume"
    assert resume_command(asked("--out", "run", "training.total_steps=4")) == plain
    options = ("--device", "cpu", "--track", "wandb", "--tensorboard", "--force")
    words = ["--track", "wandb", "--track", "tensorboard", "--force"]
    line = resume_command(asked("--out", "my run", *options))
    again = ["atlas-lm", "train", "my run/recipe.toml", "--out", "my run", "--resume"]
    assert shlex.split(line) == [*again, *words]
    args = asked("--out", "run")
    args.device = "cuda:1"
    assert resume_command(args) == f"{plain} --device cuda:1"
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.delenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", raising=False)
    launcher = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT=600 torchrun --nproc-per-node 2"
    started = f"{launcher} -m atlas_lm train run/recipe.toml"
    assert resume_command(args).startswith(started)


def test_a_tracker_without_its_library_is_named_before_any_work(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(train, "open_halves", lambda _: pytest.fail("it is at work"))
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert main(["train", "tinyworld", "--out", str(tmp_path / "run"), "--track", "wandb"]) == 2
    assert "pip install wandb" in capsys.readouterr().err


def test_a_profile_of_fewer_than_no_steps_is_refused(capsys):
    with pytest.raises(SystemExit):
        asked("--out", "run", "--profile", "-1")
    assert "no number of steps" in capsys.readouterr().err


def test_every_recipe_of_an_example_is_found_and_takes_its_overrides():
    lines = [line for verb in VERBS for line in build_parser(verb)[1].EXAMPLE.splitlines()]
    seen = set()
    for words in (shlex.split(line, comments=True) for line in lines):
        for before, recipe in itertools.pairwise(words):
            if before in {"train", "--gradients"} and not recipe.startswith("runs/"):
                overrides = [word for word in words if "=" in word]
                load_recipe(find_recipe(recipe), overrides, RunConfig)
                seen.add(recipe)
    assert "quickstart" in seen


def test_questions_that_have_no_turn_are_counted(capsys):
    overrides = [f"training.{each}" for each in ("total_steps=40", "bsz=4", "accumulation_steps=2")]
    config = load_recipe(find_recipe("tinyworld"), overrides, RunConfig)
    for questions, told in ((320, ""), (1000, "680 training questions or more are never seen")):
        train._say_how_many(config, questions, 0)
        said = " ".join(capsys.readouterr().err.split())
        assert said.startswith(f"{questions} training questions, 0 for validation")
        assert told in said
        assert ("never seen" in said) == bool(told)
