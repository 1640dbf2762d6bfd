"""``atlas-lm selftest``: a tiny world trained end to end by the verbs themselves."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from atlas_lm.cli.common import add_json_argument, print_json
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.logs import notice, verbatim
from atlas_lm.training.run_log import read_log

HELP = (
    "Draw a made-up world, build its index, teach a reader, train both halves, stop, resume, "
    "evaluate, answer,\nexport: by the same verbs that you use, in under a minute. Says what works."
)
EXAMPLE = "atlas-lm selftest"
STEPS = 40
"""Joint steps; the run is stopped half-way and resumed."""


class StepError(Exception):
    """A step did not do what it should; the message says what."""


@dataclass(frozen=True)
class Step:
    """One step of the self-test, and how it went."""

    name: str
    seconds: float
    passed: bool
    said: str


@dataclass
class SelfTest:
    """Runs verbs in a directory and keeps what came of them."""

    out: Path
    steps: list[Step] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every step so far did."""
        return all(step.passed for step in self.steps)

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[list[str]]:
        """Keep how long a step takes and what it says.

        Raises:
            StepError: the step raised an exception, of whatever kind; it is kept as failed.
        """
        said: list[str] = []
        started = time.perf_counter()
        try:
            yield said
        except Exception as error:
            is_ours = isinstance(error, StepError)
            said.append(str(error) if is_ours else f"{type(error).__name__}: {error}")
            self.steps.append(Step(name, time.perf_counter() - started, False, " ".join(said)))
            raise StepError(said[-1]) from error
        self.steps.append(Step(name, time.perf_counter() - started, True, " ".join(said)))
        notice(f"  {name}: {' '.join(said)}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add where to leave what it makes."""
    parser.add_argument("--out", metavar="DIR", help="keep what is made there (default: nothing)")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Run it. Exit code 1 where something does not work."""
    if args.out and Path(args.out).is_dir() and any(Path(args.out).iterdir()):
        raise InputError(f"{args.out}: not empty; choose a new directory")
    with tempfile.TemporaryDirectory() as scratch:
        test = SelfTest(Path(args.out or scratch))
        with contextlib.suppress(StepError):
            end_to_end(test)
    seconds = sum(step.seconds for step in test.steps)
    if args.json:
        steps = [vars(step) for step in test.steps]
        print_json({"passed": test.passed, "seconds": seconds, "steps": steps})
    else:
        _show(test, seconds)
    return 0 if test.passed else 1


def end_to_end(test: SelfTest) -> None:
    """Do every step in order.

    Raises:
        StepError: one did not do what it should.
    """
    from atlas_lm.cli.tiny import TinyRun
    from atlas_lm.data.tinymodels import tiny_reader, tiny_retriever
    from atlas_lm.data.tinyworld import TinyWorldConfig, write_tinyworld

    run = TinyRun(test.out)
    with test.step("world") as said:
        world = write_tinyworld(run.world, TinyWorldConfig(people=12, lessons=8192))
        tiny_reader(world.words).save_pretrained(run.drawn / "reader")
        tiny_retriever(world.words).save_pretrained(run.drawn / "retriever")
        said.append(f"{len(world.passages)} passages, two halves drawn at random")
    with test.step("index build"):
        _verb("index", "build", "--passages", run.world / "passages.jsonl", "--retriever",
              run.drawn / "retriever", "--out", run.index)  # fmt: skip
    with test.step("train: the reader learns to read") as said:
        trained = _verb("train", "tinyworld_lessons", "--out", run.out / "lessons",
                        f"reader.path={run.drawn}/reader", "training.total_steps=400",
                        f"data.train={run.world}/lessons.jsonl")  # fmt: skip
        said.append(_curve(trained["metrics"], "reader_loss"))
    pair = ["--reader", run.taught_reader, "--retriever", run.drawn / "retriever"]
    data = ["--data", run.world / "test.jsonl", "--bsz", 64, "--n-context", 4]
    with test.step("evaluate: before"):
        before = _verb("evaluate", *pair, "--index", run.index, *data)
    _train_both(test, run)
    both = run.out / "joint"
    own = ["--model", both / "model", "--index", both / "index"]
    with test.step("evaluate: after") as said:
        after = _verb("evaluate", *own, *data)
        for name in ("recall_at_1", "exact_match"):
            was, now = before[name]["mean"], after[name]["mean"]
            said.append(f"{name} {was:.2f} -> {now:.2f}")
            _require(now > was, f"{name} did not rise ({was:.2f} -> {now:.2f})")
    with test.step("answer") as said:
        question = _verb("retrieve", *own, "--data", run.world / "test.jsonl", "--topk", 1,
                         "--limit", 1)["examples"][0]["id"]  # fmt: skip
        answered = _verb("answer", *own, question)
        _require(answered["passages"], "no passage behind the answer")
        said.append(f"{len(answered['passages'])} passages behind {answered['answer']!r}")
    with test.step("inspect"):
        _require(_verb("inspect", both)["kind"] == "run", "the run is not known as one")
    with test.step("export") as said:
        exported = _verb("export", both, "--out", run.out / "export")
        said.append(", ".join(exported["files"]))


def _train_both(test: SelfTest, run: Any) -> None:
    """Train both halves, stopped after half of the steps by its own limit and resumed."""
    both = run.out / "joint"
    words = [
        f"reader.path={run.taught_reader}",
        f"retriever.path={run.drawn}/retriever",
        f"data.train={run.world}/train.jsonl",
        f"data.index={run.index}",
        f"training.total_steps={STEPS}",
        f"training.save_every={STEPS // 2}",
        "training.log_every=10",
    ]
    with test.step("train: both halves, index refreshed") as said:
        trained = _verb("train", "tinyworld", "--out", both, *words)
        _require(trained["finished"], "it did not finish")
        said.append(_curve(trained["metrics"], "retriever_loss"))
    with test.step("resume: the same weights again") as said:
        import shutil

        from safetensors.torch import load_file

        model = both / "checkpoints" / f"step-{STEPS:08d}" / "model.safetensors"
        whole = load_file(model)
        shutil.rmtree(model.parent)
        shutil.rmtree(both / "model")
        _verb("train", both / "recipe.toml", "--out", both, "--resume")
        again = load_file(model)
        same = all(bool((again[name] == whole[name]).all()) for name in whole)
        _require(same, "the resumed run has other weights than the one that was never stopped")
        said.append(f"bit for bit, from step {STEPS // 2}")


def _verb(*words: Any) -> dict[str, Any]:
    """Run a verb with ``--json``; return what it printed.

    Raises:
        StepError: it ended with another code than 0.
    """
    from atlas_lm.cli import main

    printed, complained = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(complained):
        code = main([*map(str, words), "--json"])
    _require(code == 0, f"atlas-lm {words[0]} ended with {code}: {complained.getvalue().strip()}")
    result: dict[str, Any] = json.loads(printed.getvalue())
    return result


def _curve(metrics: str, name: str) -> str:
    values = [row[name] for row in read_log(Path(metrics)) if name in row]
    _require(values, f"{metrics}: no {name} was logged")
    _require(values[-1] < values[0], f"{name} did not fall ({values[0]:.3f} -> {values[-1]:.3f})")
    return f"{name} {values[0]:.3f} -> {values[-1]:.3f}"


def _require(condition: object, otherwise: str) -> None:
    """Raise `StepError` with these words unless the condition is true."""
    if not condition:
        raise StepError(otherwise)


def _show(test: SelfTest, seconds: float) -> None:
    table = Table("", "step", "seconds", "", box=None)
    for step in test.steps:
        mark = "[green]✓[/]" if step.passed else "[red]✗[/]"
        table.add_row(mark, step.name, f"{step.seconds:.1f}", verbatim(step.said))
    Console().print(table)
    verdict = "everything works" if test.passed else "the last step failed"
    Console().print(f"{verdict}; {seconds:.0f} s", markup=False)
