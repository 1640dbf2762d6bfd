"""``atlas-lm train``: a recipe and overrides become a trained model."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable
from pathlib import Path

from atlas_lm.cli.common import add_json_argument, print_json
from atlas_lm.cli.device import device
from atlas_lm.cli.fits import refuse_what_cannot_fit
from atlas_lm.cli.joint import (
    Watch,
    from_the_first_index,
    open_halves,
    open_or_build_index,
    run_joint,
    training_examples,
)
from atlas_lm.cli.together import joined
from atlas_lm.config import RunConfig, find_recipe, load_recipe, read_toml
from atlas_lm.runtime import distributed
from atlas_lm.runtime.errors import InputError, did_you_mean
from atlas_lm.runtime.intact import step_directories
from atlas_lm.runtime.launched import launched, start_words
from atlas_lm.runtime.logs import notice
from atlas_lm.tasks import load_examples
from atlas_lm.training.interrupt import Terminated, terminable
from atlas_lm.training.lock import run_lock
from atlas_lm.training.run_log import LOG_FILE
from atlas_lm.training.trackers import TRACKERS, require_trackers

HELP = "Fine-tune retriever and reader together, or pre-train a retriever, as a recipe says."
EXAMPLE = (
    "atlas-lm train quickstart --out runs/mine data.shots=0 data.train=questions.jsonl "
    "'data.passages=[\"my.jsonl\"]'\n"
    "  atlas-lm train runs/mine/recipe.toml --out runs/mine --resume"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the recipe, overrides, where to write and whether to resume."""
    parser.add_argument("recipe", metavar="RECIPE", help="a .toml file, or the name of a recipe")
    parser.add_argument("overrides", nargs="*", metavar="table.key=value")
    parser.add_argument("--out", required=True, metavar="DIR", help="the run's directory")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
    parser.add_argument(
        "--device", type=device, default="cpu", help="cpu, cuda, cuda:1, mps (default: cpu)"
    )
    parser.add_argument(
        "--track",
        action="append",
        default=[],
        choices=list(TRACKERS),
        help="send metrics there, too; may be given several times",
    )
    parser.add_argument("--tensorboard", action="store_true", help="as --track tensorboard")
    parser.add_argument(
        "--profile",
        type=_count,
        default=0,
        metavar="N",
        help="write a trace of N steps by torch's profiler to OUT/profile",
    )
    parser.add_argument(
        "--force", action="store_true", help="start even where the plan says it cannot fit"
    )
    add_json_argument(parser)


def _count(text: str) -> int:
    """Return a number of steps; for `argparse`."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of steps; give 0, 1, 2, ...")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Train."""
    path = find_recipe(args.recipe)
    if (kind := read_toml(path).get("kind", "joint")) != "joint":
        return _other(kind, path, args)
    config = load_recipe(path, args.overrides, RunConfig)
    require_trackers(watched(args))
    with joined(args.device, timeout_minutes=config.training.timeout_minutes) as device:
        return unless_terminated(
            lambda: _joint(config, args, device), lambda: continuing_command(args)
        )


def unless_terminated(work: Callable[[], int], go_on: Callable[[], str]) -> int:
    """Return what ``work`` does; 0, and say what goes on, where SIGTERM ends it outside of steps.

    Args:
        work: does the job and returns an exit code.
        go_on: returns the command that goes on with what is there by then.
    """
    try:
        with terminable():
            return work()
    except Terminated:
        notice(f"stopped by SIGTERM before or after the steps; go on with: {go_on()}")
        return 0


def _joint(config: RunConfig, args: argparse.Namespace, device: str) -> int:
    """Train both halves; with several processes, all of them do."""
    out = Path(args.out)
    atlas = open_halves(config).to(device)
    first = from_the_first_index(config, out)
    examples = training_examples(first, atlas.config.task, atlas.reader.settings.kind)
    validation = (
        load_examples(
            config.data.validation, atlas.config.task, limit=config.data.validation_limit or None
        )
        if config.data.validation
        else []
    )
    refuse_what_cannot_fit(atlas, first, out, force=args.force)
    with run_lock(out):
        index = open_or_build_index(atlas, first, out)
        _say_how_many(config, len(examples), len(validation))
        outcome = run_joint(
            atlas,
            config,
            examples,
            validation,
            out,
            resume=args.resume,
            watch=Watch(track=watched(args), profile=args.profile),
            held=True,
        )
    own = out / "index"
    result = {
        "step": outcome.step,
        "finished": outcome.finished,
        "model": str(out / "model") if outcome.finished else None,
        "index": str(own if own.is_dir() else index) if index else None,
        "checkpoint": str(outcome.checkpoint),
        "metrics": str(out / LOG_FILE),
    }
    if args.json and distributed.world().is_main:
        print_json(result)
    elif outcome.finished:
        notice(f"model: {result['model']}\nindex: {result['index']}")
        notice(f'ask it: atlas-lm answer --model {out}/model --index {result["index"]} "..."')
    else:
        notice(f"go on with: {resume_command(args)}")
    return 0


def _say_how_many(config: RunConfig, training: int, validation: int) -> None:
    """Say how many questions there are, and whether not all of them will have their turn."""
    notice(f"{training} training questions, {validation} for validation")
    visits = config.training.total_steps * config.training.queries_per_update
    if visits < training:
        notice(
            f"{training - visits} training questions or more are never seen: the run ends after "
            f"{visits} visits (training.total_steps x bsz x accumulation_steps)"
        )


def resume_command(args: argparse.Namespace) -> str:
    """Return what goes on with the run of ``args`` as it was started: a line for a shell."""
    return _command(args, f"{args.out}/recipe.toml", "--out", args.out, "--resume")


def continuing_command(args: argparse.Namespace) -> str:
    """Return what goes on with the run of ``args`` from its newest checkpoint, or starts it."""
    begun = step_directories(Path(args.out, "checkpoints"))
    return resume_command(args) if begun else start_command(args)


def start_command(args: argparse.Namespace) -> str:
    """Return what starts the run of ``args`` once more: an index goes on where it was stopped."""
    return _command(args, args.recipe, *args.overrides, "--out", args.out)


def _command(args: argparse.Namespace, *what: str) -> str:
    words = [*start_words(), "train", *what]
    if args.device != "cpu":
        words += ["--device", args.device]
    for name in dict.fromkeys(watched(args)):
        words += ["--track", name]
    return shlex.join([*words, *["--force"] * args.force])


def watched(args: argparse.Namespace) -> tuple[str, ...]:
    """Return the trackers asked for."""
    return (*args.track, *(["tensorboard"] if args.tensorboard else []))


def refuse_to_watch(args: argparse.Namespace, what: str, *, track: bool) -> None:
    """Refuse options that ``what`` has no use for.

    Args:
        args: the command's.
        what: a kind of recipe.
        track: whether trackers receive its metrics.

    Raises:
        InputError: ``--profile`` was given, or a tracker where there can be none.
    """
    if args.profile:
        raise InputError(f"--profile {args.profile}: has no effect with {what}; leave it out")
    if watched(args) and not track:
        raise InputError(f"--track {watched(args)[0]}: has no effect with {what}; leave it out")


def refuse_several_processes(what: str) -> None:
    """Refuse to start ``what`` as one of several processes.

    Raises:
        InputError: ``torchrun`` or SLURM has started several.
    """
    place = launched()
    if place is not None and place.size > 1:
        raise InputError(
            f"{what} runs in one process, but {place.size} were started; start atlas-lm train "
            "without torchrun or srun"
        )


def _other(kind: str, path: Path, args: argparse.Namespace) -> int:
    """Run a recipe that is no joint run."""
    if kind == "nano":
        from atlas_lm.cli import nano

        return nano.run_recipe(path, args)
    if kind in ("contrastive", "supervised"):
        from atlas_lm.cli import pretrain

        return pretrain.run_recipe(path, args)
    kinds = ("joint", "contrastive", "supervised", "nano")
    raise InputError(
        f"{path}: unknown kind {kind!r}{did_you_mean(str(kind), kinds)}; known: {', '.join(kinds)}"
    )
