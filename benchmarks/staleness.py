"""Recall over training for every way of keeping an index fresh, against passages embedded.

python benchmarks/staleness.py --out runs/staleness --seeds 3
python benchmarks/staleness.py --out runs/staleness-mp --recipe recipes/quickstart.toml \
    staleness.query_side=false data.train=train.jsonl data.validation=dev.jsonl data.index=mp.idx

The made-up world has eight hundred passages about eighty people; only twenty of them are ever
asked about, in training or after. A refresh "in the background" is made in this process, so that
figures do not depend on the machine; its vectors come in at a fixed step, as they do with
``staleness.background.steps``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from atlas_lm.cli.joint import (
    build_index,
    open_halves,
    open_or_build_index,
    passages_move,
    training_examples,
)
from atlas_lm.cli.tiny import TinyRun, joint_config, open_at, teach_reader
from atlas_lm.config import RunConfig, find_recipe, load_recipe
from atlas_lm.data.tinymodels import tiny_reader, tiny_retriever
from atlas_lm.data.tinyworld import TinyWorld, TinyWorldConfig, make_tinyworld
from atlas_lm.evaluation import measure
from atlas_lm.index import FlatIndex
from atlas_lm.model import Atlas
from atlas_lm.passages.store import PassageStore
from atlas_lm.runtime.logs import notice
from atlas_lm.staleness import AlwaysFresh, Freshness, LiveIndex, keep_fresh
from atlas_lm.staleness.background import Job
from atlas_lm.tasks import load_examples
from atlas_lm.training import Checkpoints, new_state, train
from atlas_lm.types import Example

NEVER = ("staleness.refresh_schedule=never",)
PARTIAL = ("staleness.refresh=partial", "staleness.partial.budget={budget}")
"""{budget} is the one given on the command line."""
WAYS = {
    "never": NEVER,
    "scheduled, every 5": ("staleness.refresh_schedule=5",),
    "scheduled, every 20": ("staleness.refresh_schedule=20",),
    "drift > 0.1": ("staleness.refresh_schedule=drift>0.1", "staleness.probe_every=5"),
    "drift > 0.3": ("staleness.refresh_schedule=drift>0.3", "staleness.probe_every=5"),
    "partial, every 5": (*PARTIAL, "staleness.refresh_schedule=5"),
    "partial, every 2": (*PARTIAL, "staleness.refresh_schedule=2"),
    "partial, every 2, no sweep": (
        *PARTIAL,
        "staleness.refresh_schedule=2",
        "staleness.partial.sweep_share=0.0",
    ),
    "background, every 5": (
        "staleness.refresh_schedule=5",
        "staleness.refresh=background",
        "staleness.background.steps=5",
    ),
    "rerank 40": (*NEVER, "context.n_rerank=40"),
    "rerank 40, every 20": ("staleness.refresh_schedule=20", "context.n_rerank=40"),
    "query side": (*NEVER, "staleness.query_side=true"),
}
"""What is tried: a name, and the overrides that make it."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is trained and measured."""

    config: Callable[[Sequence[str]], RunConfig]
    """The recipe under some overrides."""
    open: Callable[[RunConfig], Atlas]
    """Both halves and the index as they are before training."""
    questions: Callable[[RunConfig, Atlas], tuple[list[Example], list[Example]]]
    """To train on, and to measure with."""


@dataclasses.dataclass
class Counter:
    """Passages that went through the passage encoder without a gradient."""

    passages: int = 0
    is_counting: bool = True

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count."""
        before, self.is_counting = self.is_counting, False
        try:
            yield
        finally:
            self.is_counting = before

    def watch(self, atlas: Atlas) -> None:
        """Count what the model's retriever embeds from now on."""
        embed = atlas.trained_retriever.embed_corpus

        def counted(passages: Any, **options: Any) -> Tensor:
            self.passages += len(passages) if self.is_counting else 0
            return embed(passages, **options)

        atlas.trained_retriever.embed_corpus = counted  # type: ignore[method-assign]


class HereLauncher:
    """A "second process" that is this one: the vectors are those of the step it begins."""

    def __init__(self, atlas: Atlas) -> None:
        self._atlas = atlas

    def copy_weights(self) -> dict[str, Tensor]:
        """Return nothing: the work is done at once."""
        return {}

    def launch(self, job: Job, *, again: bool) -> HereLauncher:
        """Embed every passage."""
        self._vectors = embed_all(self._atlas)
        return self

    def is_done(self) -> bool:
        """It is."""
        return True

    def vectors(self) -> Tensor:
        """Return them."""
        return self._vectors

    def stop(self) -> None:
        """Nothing runs."""

    def clear(self) -> None:
        """Nothing lies about."""


def embed_all(atlas: Atlas) -> Tensor:
    """Return every passage's embedding by the retriever as it is now."""
    assert atlas.index is not None
    assert atlas.store is not None
    every = atlas.store.passages(range(len(atlas.store)))
    return atlas.trained_retriever.embed_corpus(every).to("cpu", atlas.index.dtype)


def keeper(atlas: Atlas, config: RunConfig) -> Freshness:
    """Return what keeps the index fresh, as `cli.joint` does but for the second process."""
    if not passages_move(config):
        return AlwaysFresh(indexed=True)
    index, store = atlas.index, atlas.store
    assert isinstance(index, FlatIndex)
    assert store is not None
    live = LiveIndex(index, store, atlas.trained_retriever, lambda: atlas.fingerprint(store))
    return keep_fresh(
        live,
        config.staleness,
        HereLauncher(atlas),
        topk=config.context.retriever_n_context,
        freeze_retriever_steps=config.training.freeze_retriever_steps,
        seed=config.training.seed,
    )


def found(atlas: Atlas, test: Sequence[Example]) -> dict[str, float]:
    """Return recall as training retrieves, and as it would be from an index made this minute."""
    assert isinstance(atlas.index, FlatIndex)
    fresh = atlas.with_config(atlas.config)
    fresh.index = FlatIndex(embed_all(atlas), fingerprint=atlas.index.fingerprint)
    both = {"live": atlas, "fresh": fresh}
    return {
        f"{name}_recall_at_{k}": value
        for name, model in both.items()
        for k in (1, 5)
        for value in [measure(model, test, ks=(1, 5), answers=False, bsz=64).metrics.means()]
        for value in [value[f"recall_at_{k}"]]
    }


def try_way(
    subject: Subject, overrides: Sequence[str], out: Path, every: int
) -> list[dict[str, float]]:
    """Train once; return one record for every evaluation."""
    config = subject.config(
        [
            "staleness.probe_passages=64",
            *overrides,
            f"training.evaluate_every={every}",
            f"training.log_every={every}",
        ]
    )
    atlas = subject.open(config)
    examples, test = subject.questions(config, atlas)
    counter, records, began = Counter(), [], time.process_time()
    freshness = keeper(atlas, config)
    counter.watch(atlas)
    state = new_state(atlas, examples, config.training, freshness=freshness)
    spent = [0.0]

    def evaluate() -> dict[str, float]:
        paused = time.process_time()
        with counter.paused():
            record = found(atlas, test)
        spent[0] += time.process_time() - paused
        seconds = time.process_time() - began - spent[0]
        record |= {"step": state.step, "embedded": counter.passages, "seconds": seconds}
        records.append(record)
        return record

    def log(step: int, metrics: Any) -> None:
        if "staleness_drift" in metrics:
            kept = ("staleness_drift", "staleness_topk_overlap", "probe_embedded")
            latest.update({name: metrics.get(name, 0.0) for name in kept})
        elif records:
            records[-1].update(latest)

    latest: dict[str, float] = {}
    train(state, config.training, checkpoints=Checkpoints(out), log=log, evaluate=evaluate)
    return records


def tiny_subject(
    out: Path, seed: int, world: TinyWorld, asked: int, given: Sequence[str], budget: int
) -> Subject:
    """Draw both halves and teach the reader; questions are about the first ``asked`` people."""
    run = TinyRun(out)
    part = asked_about(world, asked)
    run.world.mkdir(parents=True)
    rows = {
        "passages": world.passages,
        "train": part.train,
        "test": part.test,
        "lessons": part.lessons(),
    }
    for name, lines in rows.items():
        text = "".join(f"{json.dumps(row)}\n" for row in lines)
        (run.world / f"{name}.jsonl").write_text(text, "utf-8")
    retriever = tiny_retriever(world.words, seed=seed)
    tiny_reader(world.words, seed=seed).save_pretrained(run.drawn / "reader")
    retriever.save_pretrained(run.drawn / "retriever")
    store = PassageStore.open([run.world / "passages.jsonl"])
    build_index(Atlas(retriever, None), store, run.index)
    teach_reader(run, seed)

    def configure(overrides: Sequence[str]) -> RunConfig:
        return joint_config(run, seed, overrides=[*given, *filled(overrides, budget)])

    def questions(config: RunConfig, atlas: Atlas) -> tuple[list[Example], list[Example]]:
        test = load_examples(run.world / "test.jsonl", atlas.config.task)
        return training_examples(config, atlas.config.task), test

    return Subject(configure, lambda config: open_at(config, run.index), questions)


def asked_about(world: TinyWorld, people: int) -> TinyWorld:
    """Return the part of a world about its first people."""
    few = set(world.people[:people])

    def rows(all_rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [row for row in all_rows if row["id"].split("-")[0] in few]

    return dataclasses.replace(
        world,
        people=world.people[:people],
        values={relation: values[:people] for relation, values in world.values.items()},
        train=rows(world.train),
        test=rows(world.test),
    )


def filled(overrides: Sequence[str], budget: int) -> list[str]:
    """Return the overrides with the budget put in."""
    return [override.replace("{budget}", str(budget)) for override in overrides]


def recipe_subject(out: Path, recipe: str, overrides: Sequence[str], budget: int) -> Subject:
    """Return the run of a recipe, which names training and validation questions."""

    def configure(more: Sequence[str]) -> RunConfig:
        every = [*overrides, *filled(more, budget)]
        return load_recipe(find_recipe(recipe), every, RunConfig)

    def opened(config: RunConfig) -> Atlas:
        atlas = open_halves(config)
        open_or_build_index(atlas, config, out)
        return atlas

    def questions(config: RunConfig, atlas: Atlas) -> tuple[list[Example], list[Example]]:
        limit = config.data.validation_limit or None
        test = load_examples(config.data.validation, atlas.config.task, limit=limit)
        return training_examples(config, atlas.config.task), test

    return Subject(configure, opened, questions)


def table(results: dict[str, list[list[dict[str, float]]]], steps: Sequence[int]) -> str:
    """Return the results as Markdown: means over seeds, recall at 5 with the live index."""
    head = " | ".join(f"step {step}" for step in steps)
    lines = [
        f"| way | {head} | R@1 | fresh R@5 | drift | embedded | to measure | seconds |",
        "| --- |" + " --- |" * (len(steps) + 6),
    ]
    for name, runs in results.items():
        at = [[next(r for r in run if r["step"] == step) for run in runs] for step in steps]

        def mean(records: list[dict[str, float]], key: str) -> float:
            return statistics.mean(record.get(key, 0.0) for record in records)

        curve = " | ".join(f"{100 * mean(records, 'live_recall_at_5'):.1f}" for records in at)
        last = at[-1]
        lines.append(
            f"| {name} | {curve} | {100 * mean(last, 'live_recall_at_1'):.1f} | "
            f"{100 * mean(last, 'fresh_recall_at_5'):.1f} | {mean(last, 'staleness_drift'):.2f} | "
            f"{mean(last, 'embedded') - mean(last, 'probe_embedded'):,.0f} | "
            f"{mean(last, 'probe_embedded'):,.0f} | {mean(last, 'seconds'):.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Try every way with every seed; print a table, and keep the records."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("overrides", nargs="*", metavar="table.key=value")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--recipe", help="instead of the made-up world")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--people", type=int, default=80)
    parser.add_argument("--asked", type=int, default=20)
    parser.add_argument(
        "--budget", type=int, help="passages in a partial refresh (default: a tenth; recipe: 1000)"
    )
    parser.add_argument("--every", type=int, default=10, help="steps between evaluations")
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=list(WAYS))
    args = parser.parse_args()
    results: dict[str, list[list[dict[str, float]]]] = {way: [] for way in args.ways}
    for seed in range(args.seeds):
        place = args.out / f"seed-{seed}"
        given = [*args.overrides, f"training.seed={seed}"]
        if args.recipe:
            subject = recipe_subject(place, args.recipe, given, args.budget or 1000)
        else:
            world = make_tinyworld(TinyWorldConfig(people=args.people, seed=seed))
            budget = args.budget or len(world.passages) // 10
            subject = tiny_subject(place, seed, world, args.asked, given, budget)
        for number, way in enumerate(args.ways):
            records = try_way(subject, WAYS[way], place / f"way-{number}", args.every)
            results[way].append(records)
            notice(f"seed {seed}, {way}: {json.dumps(records[-1])}")
            (args.out / "records.json").write_text(json.dumps(results), "utf-8")
    steps = [int(record["step"]) for record in results[args.ways[0]][0]]
    shown = [step for step in steps if step % (2 * args.every) == 0 or step == steps[-1]]
    print(table(results, shown))


if __name__ == "__main__":
    main()
