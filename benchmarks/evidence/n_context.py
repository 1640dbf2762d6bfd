"""How many passages to read, at training and at test: quality against time.

python benchmarks/evidence/n_context.py tiny --seeds 0 1 2
python benchmarks/evidence/n_context.py minipedia --joint runs/evidence/minipedia \
    --teacher s144-0-nano --ranking nano --questions 64

tiny       Both halves are trained with 1, 4, 8 and 16 passages in the made-up world and asked with
           1 to 50.
minipedia  A reader that minipedia_joint.py has trained with five passages, asked with 1 to 50 of a
           ranking that it has saved (its `retrieval` or `learn` cells, of the same --set, --split
           and --limit).
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import time
from pathlib import Path
from typing import Any

from cells import Cell, add_cell_arguments, measured, run_cells
from minipedia_setup import ANSWER_SECONDS, Minipedia, add_minipedia_arguments

from atlas_lm.cli.joint import run_joint, training_examples
from atlas_lm.cli.tiny import TinyRun, draw_world, joint_config, open_at, teach_reader
from atlas_lm.evaluation import measure
from atlas_lm.model import Atlas
from atlas_lm.tasks import load_examples

AT_TEST = (1, 2, 5, 10, 20, 50)
AT_TRAINING = (1, 4, 8, 16)


def tiny(out: Path, seed: int, trained_with: int) -> dict[str, Any]:
    """Return EM and time of a pair trained with so many passages, asked with 1 to 50."""
    run = TinyRun(out / "worlds" / str(seed))
    if not run.taught_reader.is_dir():
        draw_world(run, seed)
        teach_reader(run, seed)
    overrides = [
        f"context.n_context={trained_with}",
        f"context.retriever_n_context={max(8, trained_with)}",
    ]
    config = joint_config(run, seed, overrides=overrides)
    folder = run.out / f"joint-{trained_with}"
    if not (folder / "model").is_dir():
        atlas = open_at(config, run.index)
        started = time.perf_counter()
        run_joint(atlas, config, training_examples(config, atlas.config.task), [], folder)
        (folder / "seconds").write_text(f"{time.perf_counter() - started:.1f}")
    atlas = Atlas.from_pretrained(folder / "model", index=folder / "index")
    test = load_examples(run.world / "test.jsonl", atlas.config.task)
    found = {}
    measure(atlas, test, ks=(1, 5), bsz=50)  # the first pass pays for what is set up once
    for n_context in AT_TEST:
        reading = with_n_context(atlas, n_context)
        started = time.perf_counter()
        evaluation = measure(reading, test, ks=(1, 5), bsz=50)
        seconds = (time.perf_counter() - started) / len(test)
        found[str(n_context)] = measured(evaluation, seconds_per_question=seconds)
    seconds = float((folder / "seconds").read_text())
    return {
        "seed": seed,
        "trained_with": trained_with,
        "training_seconds": seconds,
        "at_test": found,
    }


def with_n_context(atlas: Atlas, n_context: int) -> Atlas:
    """Return the same model reading so many passages."""
    context = dataclasses.replace(
        atlas.config.context,
        n_context=n_context,
        retriever_n_context=max(n_context, atlas.config.context.retriever_n_context),
    )
    return atlas.with_config(dataclasses.replace(atlas.config, context=context))


def minipedia(args: argparse.Namespace, n_context: int) -> dict[str, Any]:
    """Return EM and time of a trained reader with so many passages."""
    joint = copy.copy(args)
    joint.out = args.joint
    world = Minipedia(joint)
    started = time.perf_counter()
    rows = world.ranking(args.ranking)
    world.reader_in(args.teacher, args.reading)
    opened = time.perf_counter()
    answers = world.answers(args.teacher, args.reading, rows, n_context)
    seconds = (time.perf_counter() - opened) / len(world.asked)
    return measured(
        answers,
        n_context=n_context,
        seconds_per_question=seconds,
        seconds_to_open=opened - started,
        teacher=args.teacher,
        ranking=args.ranking,
    )


def cells(args: argparse.Namespace) -> list[Cell]:
    if args.world == "tiny":
        return [
            Cell(
                f"n_context/tiny/{seed}-trained-with-{trained}",
                lambda seed=seed, trained=trained: tiny(args.out, seed, trained),
                25 + 2 * trained,
            )
            for seed in args.seeds
            for trained in AT_TRAINING
        ]
    name = f"n_context/minipedia/{args.teacher}-{args.ranking}-{args.reading}-q{args.questions}"
    return [
        Cell(
            f"{name}/{n_context}",
            lambda n_context=n_context: minipedia(args, n_context),
            30 + ANSWER_SECONDS * args.questions * (0.4 + 0.12 * n_context),
        )
        for n_context in AT_TEST
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("world", choices=["tiny", "minipedia"])
    add_cell_arguments(parser, out="runs/evidence/n_context")
    add_minipedia_arguments(parser)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="tiny worlds")
    parser.add_argument("--joint", type=Path, default=Path("runs/evidence/minipedia"))
    parser.add_argument("--teacher", default="s144-0-nano", help="of the joint run's teachers")
    parser.add_argument("--ranking", default="nano", help="of the joint run's rankings")
    parser.add_argument("--reading", default="fused", choices=["fused", "one_prompt"])
    args = parser.parse_args()
    run_cells(cells(args), args)


if __name__ == "__main__":
    main()
