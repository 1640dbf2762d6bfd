"""Baselines, the reader alone, and joint training under each objective, on Minipedia.

python benchmarks/evidence/minipedia_joint.py --shots 144 --seeds 0 --dry-run
python benchmarks/evidence/minipedia_joint.py --shots 144 --seeds 0 --questions 64
python benchmarks/evidence/minipedia_joint.py --shots 64 --seeds 0 1 2 3 4

Every cell is one JSON file under OUT/cells; a cell that is there is skipped, so a run that was
stopped is started again with the same command. The groups, in the order in which they run:

retrieval  recall of BM25, MiniLM and contriever-nano
prompt     answers of the published reader under a few-shot prompt: closed book, each retriever's
           passages, both readings
teacher    the reader learns to read and then measures every signal; also without passages
           (teacher-closed), in one prompt (teacher-one_prompt), and the signals of the reader as
           published (control, and control-prompted behind the few-shot prompt)
read       answers of the trained reader over each retriever as it was
tune       the retriever's hyper-parameters, one objective each, on dev questions
learn      the retriever learns from the signals of each teacher under each objective: recall;
           shuffled: the trained reader's signals, dealt out at random among the passages
joint      answers of the trained reader over what the trained retriever finds
towers     both encoders learn: recall with the old index, with it and reranking, and refreshed
variant    whole runs of the library's loop: two and four alternations, an update at every step,
           both encoders with refreshes
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from cells import Cell, add_cell_arguments, run_cells
from joint_work import VARIANTS, JointWork
from minipedia_setup import ANSWER_SECONDS, READINGS, STARTS, Schedule, add_minipedia_arguments
from tuning import OBJECTIVES

TEACHERS = ("trained", "control", "control-prompted", "shuffled", "oracle")
WARM_STEP, TEACHING_STEP, UNTAUGHT_STEP = 4.5, 14.0, 9.0
"""Seconds on two cores of a step of four questions."""


class Joint:
    """The cells of one command."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.work = JointWork(args)
        self.on = self.work.world.measured_on
        self.asked = f"{self.on}-q{args.questions}"
        self.start: str = args.start

    def cells(self) -> Iterator[Cell]:
        for name in ("bm25", *STARTS):
            yield self._cell(f"retrieval/{self.on}/{name}", self.work.retrieval, 150, name)
        yield from self._prompts()
        for shots in self.args.shots:
            for seed in self.args.seeds:
                yield from self._of_draw(shots, seed)

    def _cell(self, name: str, run: Any, seconds: float, *args: Any) -> Cell:
        return Cell(name, lambda: run(*args), seconds)

    def _answers_cost(self) -> float:
        return 15 + ANSWER_SECONDS * self.args.questions

    def _prompts(self) -> Iterator[Cell]:
        cost = self._answers_cost()
        yield self._cell(f"prompt/{self.asked}/closed", self.work.prompt, cost, "closed", "fused")
        for name in ("bm25", *STARTS):
            for reading in READINGS:
                place = f"prompt/{self.asked}/{name}-{reading}"
                yield self._cell(place, self.work.prompt, cost, name, reading)

    def _of_draw(self, shots: int, seed: int) -> Iterator[Cell]:
        draw, plan = f"s{shots}-{seed}", Schedule.of(shots)
        tag = f"{draw}-{self.start}"
        warm, taught = plan.warm * WARM_STEP, plan.teaching * TEACHING_STEP
        untaught_cost = plan.teaching * UNTAUGHT_STEP
        yield self._cell(f"teacher/{tag}", self.work.teacher, warm + taught, shots, seed)
        yield self._cell(f"control/{tag}", self.work.control, untaught_cost, shots, seed, False)
        yield self._cell(
            f"control-prompted/{tag}", self.work.control, untaught_cost, shots, seed, True
        )
        for kind in ("closed", "one_prompt"):
            cost = (plan.warm + plan.teaching) * WARM_STEP
            yield self._cell(
                f"teacher-{kind}/{tag}", self.work.reader_alone, cost, shots, seed, kind
            )
        yield from self._reads(shots, seed)
        for objective in self.args.objectives:
            cost = 13 * (10 + shots / 12)
            place = f"tune/{tag}/{objective}"
            if seed == self.args.seeds[0]:
                yield self._cell(place, self.work.tune, cost, shots, seed, objective)
        for teacher in TEACHERS:
            for objective in self.args.objectives if teacher != "oracle" else ("emdr2",):
                place = f"learn/{self.on}/{tag}/{teacher}-{objective}"
                job = (shots, seed, teacher, objective)
                yield self._cell(place, self.work.learn, 20 + shots / 12, *job)
        for objective in self.args.objectives:
            job = (shots, seed, objective)
            place = f"joint/{self.asked}/{tag}/{objective}"
            yield self._cell(place, self.work.joint, self._answers_cost(), *job)
            yield self._cell(f"towers/{self.on}/{tag}/{objective}", self.work.towers, 240, *job)
        for name, (rounds, _) in VARIANTS.items():
            place = f"variant/{self.asked}/{tag}/{self.args.objective}-{name}"
            if plan.teaching % rounds == 0:
                cost = warm + taught + self._answers_cost()
                yield self._cell(place, self.work.variant, cost, shots, seed, name)

    def _reads(self, shots: int, seed: int) -> Iterator[Cell]:
        cost = self._answers_cost()
        place = f"read/{self.asked}/s{shots}-{seed}-{self.start}"
        yield self._cell(f"{place}/closed", self.work.read, cost, shots, seed, "closed", "fused")
        for name in ("bm25", *STARTS):
            yield self._cell(
                f"{place}/{name}-fused", self.work.read, cost, shots, seed, name, "fused"
            )
        for kind in ("fused", "one_prompt"):
            job = (shots, seed, self.start, "one_prompt", kind)
            yield self._cell(
                f"{place}/{self.start}-one_prompt-trained-{kind}", self.work.read, cost, *job
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_cell_arguments(parser, out="runs/evidence/minipedia")
    add_minipedia_arguments(parser)
    parser.add_argument("--shots", type=int, nargs="+", default=[144], help="training questions")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--start", default="nano", choices=list(STARTS), help="retriever")
    parser.add_argument(
        "--objectives",
        nargs="+",
        default=list(OBJECTIVES),
        choices=OBJECTIVES,
        help="pdist and emdr2 alone need one signal: half the teaching time",
    )
    parser.add_argument("--objective", default="emdr2", choices=OBJECTIVES, help="of the variants")
    parser.add_argument(
        "--tuned-on", metavar="sSHOTS-SEED", help="use another draw's tuned hyper-parameters"
    )
    parser.add_argument("--untuned", action="store_true", help="use the defaults of tuning.py")
    args = parser.parse_args()
    run_cells(list(Joint(args).cells()), args)


if __name__ == "__main__":
    main()
