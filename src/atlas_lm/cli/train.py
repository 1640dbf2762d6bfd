"""``atlas-lm train``: a recipe and overrides become a trained model."""

from __future__ import annotations

import argparse
from pathlib import Path

from atlas_lm.cli.common import add_json_argument, print_json
from atlas_lm.cli.joint import open_halves, open_or_build_index, run_joint, training_examples
from atlas_lm.config import RunConfig, find_recipe, load_recipe, read_toml
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.logs import notice
from atlas_lm.tasks import load_examples

HELP = "Fine-tune retriever and reader together, or pre-train a retriever, as a recipe says."
EXAMPLE = (
    "atlas-lm train recipes/minipedia_64shot.toml --out runs/64shot training.total_steps=40\n"
    "  atlas-lm train runs/64shot/recipe.toml --out runs/64shot --resume"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the recipe, overrides, where to write and whether to resume."""
    parser.add_argument("recipe", metavar="RECIPE", help="a .toml file, or the name of a recipe")
    parser.add_argument("overrides", nargs="*", metavar="table.key=value")
    parser.add_argument("--out", required=True, metavar="DIR", help="the run's directory")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps (default: cpu)")
    parser.add_argument("--tensorboard", action="store_true", help="write OUT/tensorboard too")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Train."""
    path = find_recipe(args.recipe)
    if read_toml(path).get("kind") == "contrastive":
        return _pretrain(path, args)
    config = load_recipe(path, args.overrides, RunConfig)
    out = Path(args.out)
    atlas = open_halves(config).to(args.device)
    examples = training_examples(config, atlas.config.task)
    validation = (
        load_examples(
            config.data.validation, atlas.config.task, limit=config.data.validation_limit or None
        )
        if config.data.validation
        else []
    )
    index = open_or_build_index(atlas, config, out)
    notice(f"{len(examples)} training questions, {len(validation)} for validation")
    outcome = run_joint(
        atlas,
        config,
        examples,
        validation,
        out,
        resume=args.resume,
        tensorboard=args.tensorboard,
    )
    own = out / "index"
    result = {
        "step": outcome.step,
        "finished": outcome.finished,
        "model": str(out / "model") if outcome.finished else None,
        "index": str(own if own.is_dir() else index) if index else None,
        "checkpoint": str(outcome.checkpoint),
        "metrics": str(out / "metrics.jsonl"),
    }
    if args.json:
        print_json(result)
    elif outcome.finished:
        notice(f"model: {result['model']}\nindex: {result['index']}")
        notice(f'ask it: atlas-lm answer --model {out}/model --index {result["index"]} "..."')
    else:
        notice(f"go on with: atlas-lm train {out}/recipe.toml --out {out} --resume")
    return 0


def _pretrain(path: Path, args: argparse.Namespace) -> int:
    from atlas_lm.cli.pretrain import run_recipe

    if args.resume:
        raise InputError("a contrastive recipe cannot be resumed; run it again without --resume")
    return run_recipe(path, args)
