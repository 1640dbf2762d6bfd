"""Retrieval for parameters: closed-book readers of growing size against a small one with an index.

python benchmarks/evidence/parameters.py --facts 1000 4000 16000 40000 --seeds 0

open    A small reader learns to look up (lessons: facts of no world, passages given) and then,
        with a small retriever, to find and read in a world of 400 facts. Its index is then that
        of each larger world, about other facts; nothing is trained for it.
closed  Readers with one to eight times the parameters of both halves together are trained on the
        questions and answers of that very world, so many passes over all of them.
Both are asked all questions of the world (at most 1,000 of them). The largest cell trains for
many minutes; --exposures says how often each fact is seen.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from cells import Cell, add_cell_arguments, measured, run_cells
from wide_world import lessons, make_world, words

from atlas_lm.cli.joint import build_index
from atlas_lm.cli.tiny import TinyRun, joint_config, teach_reader, train_objective
from atlas_lm.data.tinymodels import tiny_reader, tiny_retriever
from atlas_lm.evaluation import measure
from atlas_lm.model import Atlas, AtlasConfig
from atlas_lm.passages.store import PassageStore
from atlas_lm.retrieve import ContextConfig
from atlas_lm.runtime.logs import track
from atlas_lm.tasks import TaskConfig, load_examples
from atlas_lm.training import TrainingConfig, new_state
from atlas_lm.training.optim import OptimConfig
from atlas_lm.training.update import update
from atlas_lm.types import Example, Generation

SMALL = {"dim": 48, "layers": 2, "heads": 8}
TRAINED_ON = 400
"""Facts of the world in which the small pair learns: all of twenty people."""
CLOSED_DIMS = {1: 64, 2: 104, 4: 152, 8: 224}
"""Width of the closed-book readers by their parameters relative to the small pair's."""
ASKED = 1000
JOINT = (
    "generation.max_new_tokens=4",
    "training.total_steps=300",
    "training.log_every=100",
    "context.retriever_n_context=16",
)
"""Beside the recipe ``tinyworld``."""
BSZ = 256
TASK = TaskConfig(query_template="{question}", target_template="{answer}")


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    return path


def small_pair(out: Path, seed: int, steps: int) -> TinyRun:
    """Return the run directory of the small reader and retriever, trained at the first call."""
    run = TinyRun(out / "pairs" / str(seed))
    if (run.objective("pdist") / "model").is_dir():
        return run
    world = make_world(TRAINED_ON, seed=1000 + seed)
    questions = world.questions()
    random.Random(seed).shuffle(questions)
    write_rows(run.world / "passages.jsonl", world.passages())
    write_rows(run.world / "train.jsonl", questions[: TRAINED_ON * 3 // 4])
    write_rows(run.world / "test.jsonl", questions[TRAINED_ON * 3 // 4 :])
    write_rows(run.world / "lessons.jsonl", lessons(steps * 32, seed))
    retriever = tiny_retriever(words(), seed=seed, dim=SMALL["dim"])
    tiny_reader(words(), seed=seed, **SMALL).save_pretrained(run.drawn / "reader")
    retriever.save_pretrained(run.drawn / "retriever")
    build_index(
        Atlas(retriever, None), PassageStore.open([run.world / "passages.jsonl"]), run.index
    )
    teach_reader(run, seed, overrides=[f"training.total_steps={steps}"])
    config = joint_config(run, seed, overrides=JOINT)
    test = load_examples(run.world / "test.jsonl", config.task)
    train_objective(run, config, "pdist", test)
    return run


def parameters(*modules: torch.nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def asked(out: Path, facts: int, seed: int) -> tuple[Path, list[Example]]:
    """Return the directory of a world and the questions that are measured."""
    folder = out / "worlds" / f"{facts}-{seed}"
    world = make_world(facts, seed)
    write_rows(folder / "passages.jsonl", world.passages())
    file = write_rows(folder / "questions.jsonl", world.questions())
    examples = load_examples(file, TASK)
    return folder, random.Random(seed).sample(examples, min(ASKED, facts))


def open_book(out: Path, facts: int, seed: int, steps: int) -> dict[str, Any]:
    """Return what the small pair answers in a world it was not trained on."""
    run = small_pair(out, seed, steps)
    folder, examples = asked(out, facts, seed)
    atlas = Atlas.from_pretrained(run.objective("pdist") / "model")
    if not (folder / f"index-{steps}").is_dir():
        store = PassageStore.open([folder / "passages.jsonl"])
        build_index(atlas, store, folder / f"index-{steps}")
    atlas.open_index(folder / f"index-{steps}")
    size = parameters(atlas.reader, atlas.trained_retriever)  # type: ignore[arg-type]
    found = measure(atlas, examples, ks=(1, 4), bsz=64)
    result = measured(found, facts=facts, seed=seed, parameters=size)
    return {**result, "reader_parameters": parameters(atlas.reader), "kind": "open"}  # type: ignore[arg-type]


def closed_book(out: Path, facts: int, times: int, seed: int, exposures: int) -> dict[str, Any]:
    """Return what a reader of ``times`` the size remembers of a world it was trained on."""
    _, examples = asked(out, facts, seed)
    everything = load_examples(out / "worlds" / f"{facts}-{seed}" / "questions.jsonl", TASK)
    reader = tiny_reader(words(), seed=seed, dim=CLOSED_DIMS[times], layers=2, heads=8)
    atlas = Atlas(
        None,
        reader,
        AtlasConfig(
            task=TASK,
            context=ContextConfig(passages_from="none"),
            generation=Generation(max_new_tokens=4),
        ),
    )
    loss = memorise(atlas, everything, exposures, seed)
    found = measure(atlas, examples, bsz=256)
    result = measured(found, facts=facts, seed=seed, parameters=parameters(reader))
    return {**result, "times": times, "exposures": exposures, "loss": loss, "kind": "closed"}


def memorise(atlas: Atlas, examples: Sequence[Example], exposures: int, seed: int) -> float:
    """Train the reader on every example so many times; return the last loss."""
    bsz = min(BSZ, max(32, len(examples) // 8))
    steps = -(-exposures * len(examples) // bsz)
    width = atlas.reader.model.config.d_model  # type: ignore[attr-defined]
    optim = OptimConfig(
        lr=3e-3 * CLOSED_DIMS[1] / width,  # at one rate for all, wider readers learn less
        schedule="cosine",
        warmup_steps=30,
        lr_floor=0.02,
        beta2=0.98,
        weight_decay=0.0,
    )
    training = TrainingConfig(total_steps=steps, bsz=bsz, reader=optim, seed=seed)
    state = new_state(atlas, examples, training)
    loss = float("nan")
    for step in track(range(steps), "memorising"):
        done = update(
            atlas,
            state.batches.take(1),
            state.optimizers,
            training,
            step=step,
            train_retriever=False,
        )
        loss = done.metrics["reader_loss"]
    return loss


def cells(args: argparse.Namespace) -> list[Cell]:
    made = []
    for seed in args.seeds:
        for facts in args.facts:
            job = (args.out, facts, seed, args.steps)
            name = f"parameters/open/{facts}-{seed}-lessons{args.steps}"
            made.append(Cell(name, lambda job=job: open_book(*job), 30 + facts / 200))
            for times in args.times:
                name = f"parameters/closed/{facts}-{times}x-{seed}-seen{args.exposures}"
                seconds = facts * args.exposures * 5e-5 * (1 + times)
                closed = (args.out, facts, times, seed, args.exposures)
                made.append(Cell(name, lambda closed=closed: closed_book(*closed), seconds))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_cell_arguments(parser, out="runs/evidence/parameters")
    parser.add_argument("--facts", type=int, nargs="+", default=[1000, 4000, 16000, 40000])
    parser.add_argument("--times", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--exposures", type=int, default=30, help="of each fact, closed book")
    parser.add_argument("--steps", type=int, default=5000, help="lessons of 32 of the small reader")
    args = parser.parse_args()
    run_cells(cells(args), args)


if __name__ == "__main__":
    main()
