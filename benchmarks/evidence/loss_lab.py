"""Does the loss lab's advice hold? What it says before training against what training then gains.

python benchmarks/evidence/loss_lab.py tiny --seeds 0 1 2
python benchmarks/evidence/loss_lab.py minipedia --joint runs/evidence/minipedia --shots 144

The lab's figure is the rank correlation, within a question, of an objective's gold scores with
whether a passage contains an answer, on the training questions. Training's is the gain in recall
on questions never trained on. In the made-up world readers that have had more and fewer lessons
teach; on Minipedia the trained reader and the controls (the cells of minipedia_joint.py are read;
nothing is trained).
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import torch
from cells import Cell, add_cell_arguments, load_cell, result_path, run_cells
from minipedia_setup import add_minipedia_arguments
from teacher import load_signals
from tuning import OBJECTIVES, Learning, objective_config

from atlas_lm.cli.score import score
from atlas_lm.cli.tiny import (
    TinyRun,
    draw_world,
    joint_config,
    open_at,
    teach_reader,
    train_objective,
)
from atlas_lm.data.minipedia import prepare_minipedia
from atlas_lm.evaluation import compare_records, has_answer, measure
from atlas_lm.evaluation.report import comparisons_to_json
from atlas_lm.objectives import agreement, make_objective
from atlas_lm.runtime.settings import cache_dir
from atlas_lm.tasks import TaskConfig, load_examples

LESSONS = (100, 200, 400, 800)
"""Steps of lessons of the readers that teach."""


def tiny(out: Path, seed: int, steps: int) -> dict[str, Any]:
    """Return the lab's figures and the gains of all objectives for a reader of so many lessons."""
    run = TinyRun(out / "worlds" / f"{seed}-{steps}")
    if not run.taught_reader.is_dir():
        draw_world(run, seed)
        teach_reader(run, seed, overrides=[f"training.total_steps={steps}"])
    config = joint_config(run, seed)
    atlas = open_at(config, run.index)
    train = load_examples(run.world / "train.jsonl", atlas.config.task)
    test = load_examples(run.world / "test.jsonl", atlas.config.task)
    wide = dataclasses.replace(config.context, n_context=config.context.retriever_n_context)
    lab_model = atlas.with_config(dataclasses.replace(atlas.config, context=wide))
    objectives = {
        name: make_objective(dataclasses.replace(config.objective, objective=name))
        for name in OBJECTIVES
    }
    scored = score(lab_model, train, objectives, bsz=50)
    lab = scored["agreement"]["answer_bearing"]
    mean_loss = sum(row["reader_loss"] for row in scored["examples"]) / len(train)
    before = measure(atlas, test, ks=(1, 5), bsz=50)
    found: dict[str, Any] = {}
    for name in OBJECTIVES:
        after = train_objective(run, config, name, test)
        found[name] = {
            "rank_agreement": lab[name],
            "gain": comparisons_to_json(compare_records(before.records, after.records)),
        }
    return {
        "seed": seed,
        "lessons": steps,
        "reader_loss": mean_loss,
        "retriever_agreement": lab["retriever"],
        "objectives": found,
    }


def minipedia(args: argparse.Namespace, shots: int, seed: int, teacher: str) -> dict[str, Any]:
    """Return the lab's figures of a teacher's signals beside the gains that are on record."""
    data = args.data or cache_dir() / "minipedia"
    if args.data is None:
        prepare_minipedia(data)
    task = TaskConfig(query_template="{question}", target_template="{answer}")
    answers = {e.id: e.answers for e in load_examples(data / "supported/train.jsonl", task)}
    tag = f"s{shots}-{seed}-{args.start}"
    memory = load_signals(args.joint / "signals" / f"{teacher}-{tag}")
    bearing = torch.tensor(
        [
            [has_answer(f"{p.heading}\n{p.text}", answers[id]) for p in passages]
            for measured in memory.gathered
            for id, passages in zip(measured.ids, measured.passages, strict=True)
        ]
    )
    on = f"{args.set}-{args.split}"
    before = load_cell(args.joint, f"retrieval/{on}/{args.start}")["metrics"]
    found = {}
    for name in OBJECTIVES:
        if not result_path(args.joint, f"learn/{on}/{tag}/{teacher}-{name}").is_file():
            continue
        objective = make_objective(objective_config(name, memory, Learning()))
        gold = torch.cat([objective.gold_score(m.signals).double() for m in memory.gathered])
        after = load_cell(args.joint, f"learn/{on}/{tag}/{teacher}-{name}")["metrics"]
        found[name] = {
            "rank_agreement": agreement({name: gold}, bearing)["answer_bearing"][name],
            "gain": {
                metric: after[metric]["mean"] - before[metric]["mean"]
                for metric in ("recall_at_1", "recall_at_5", "recall_at_20")
            },
        }
    return {"teacher": teacher, "shots": shots, "seed": seed, "objectives": found}


def cells(args: argparse.Namespace) -> list[Cell]:
    if args.world == "tiny":
        return [
            Cell(
                f"loss_lab/tiny/{seed}-lessons{steps}",
                lambda seed=seed, steps=steps: tiny(args.out, seed, steps),
                50 + steps / 40,
            )
            for seed in args.seeds
            for steps in LESSONS
        ]
    return [
        Cell(
            f"loss_lab/minipedia/s{shots}-{seed}-{args.start}-{teacher}",
            lambda shots=shots, seed=seed, teacher=teacher: minipedia(args, shots, seed, teacher),
            5,
        )
        for shots in args.shots
        for seed in args.seeds
        for teacher in ("trained", "control", "control-prompted")
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("world", choices=["tiny", "minipedia"])
    add_cell_arguments(parser, out="runs/evidence/loss_lab")
    add_minipedia_arguments(parser)
    parser.add_argument("--joint", type=Path, default=Path("runs/evidence/minipedia"))
    parser.add_argument("--shots", type=int, nargs="+", default=[144])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--start", default="nano")
    args = parser.parse_args()
    run_cells(cells(args), args)


if __name__ == "__main__":
    main()
