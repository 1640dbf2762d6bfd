"""A small model in stages, as a recipe of ``kind = "nano"`` says: the recipe ``atlas_nano``.

``OUT`` holds ``retriever/`` (where one is trained), ``start/`` (the reader as it was drawn),
``index/``, ``data/`` (what each stage is asked), one run directory a stage, with ``model/`` and
``measured.json``, and at the end ``finished.json``; the last stage's model is what it makes.
Whatever is there already is not made again, so a run that was stopped goes on where it was with
``--resume``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from atlas_lm.cli.common import print_json
from atlas_lm.cli.joint import Watch, open_halves, run_joint, training_examples
from atlas_lm.cli.nano_config import NanoConfig, NanoStage
from atlas_lm.cli.together import build_index
from atlas_lm.cli.train import (
    refuse_several_processes,
    resume_command,
    start_command,
    unless_terminated,
    watched,
)
from atlas_lm.config import DataConfig, HalfConfig, MixConfig, RunConfig, load_recipe, save_recipe
from atlas_lm.data.lookups import LookupConfig, lookups, pairs_of, split_names
from atlas_lm.data.minipedia import prepare_minipedia
from atlas_lm.data.nano_clozes import clozes
from atlas_lm.data.nano_reader import new_reader, whole_words
from atlas_lm.evaluation import measure
from atlas_lm.evaluation.metrics import answer_matcher
from atlas_lm.model import Atlas
from atlas_lm.passages.store import PassageStore
from atlas_lm.reader.fid import FiDReader
from atlas_lm.retrieve import ContextConfig
from atlas_lm.retriever import BiEncoder, contrastive
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.files import atomic_path, read_json, write_json
from atlas_lm.runtime.intact import step_directories
from atlas_lm.runtime.logs import notice
from atlas_lm.runtime.settings import cache_dir
from atlas_lm.tasks import TaskConfig, load_examples
from atlas_lm.training.lock import run_lock
from atlas_lm.training.trackers import require_trackers

HELD_OUT_SEED = 1_000_003
"""Seed of the look-ups that are measured; their names are never trained on either."""

_TASKS = {
    "lookups": TaskConfig(task="base"),
    "clozes": TaskConfig(task="base"),
    "questions": TaskConfig(task="qa", query_template="{question}", target_template="{answer}"),
}


_KEPT = {
    "file": ("exact_match", "f1"),
    "index": ("exact_match", "f1", "recall_at_1", "recall_at_5", "recall_at_20"),
}
"""Metrics that are noted where passages were given, and where they were retrieved."""


def run_recipe(path: Path, args: argparse.Namespace) -> int:
    """Go through the stages, or on with them, and report where the model lies."""
    config = load_recipe(path, args.overrides, NanoConfig)
    refuse_several_processes("a recipe of stages")
    require_trackers(watched(args))
    watch = Watch(track=watched(args), profile=args.profile)
    run = NanoRun(Path(args.out), config, device=args.device, watch=watch)

    def go_on() -> str:
        return resume_command(args) if run.begun else start_command(args)

    return unless_terminated(lambda: _go_through(run, args), go_on)


def _go_through(run: NanoRun, args: argparse.Namespace) -> int:
    with run_lock(run.out):
        run.start(resume=args.resume)
        for number, stage in enumerate(run.config.stages):
            if not run.train(number, stage):
                notice(f"go on with: {resume_command(args)}")
                return 0
            run.measure(stage)
        result = run.finish()
    if args.json:
        print_json(result)
    else:
        notice(
            f"model: {result['model']}\nindex: {result['index']}\n{json.dumps(result['stages'])}"
        )
    return 0


@dataclasses.dataclass(frozen=True)
class NanoRun:
    """One staged run on disk."""

    out: Path
    config: NanoConfig
    device: str = "cpu"
    watch: Watch = dataclasses.field(default_factory=Watch)

    @property
    def begun(self) -> bool:
        """Whether there is a run to go on with."""
        return (self.out / "recipe.toml").is_file()

    def start(self, *, resume: bool) -> None:
        """Make what every stage needs: retriever, index, data and the reader as drawn.

        Raises:
            InputError: ``out`` holds a run and it is not to be resumed, or nothing and it is, or
                the run there is of another recipe.
        """
        if self.begun and not resume:
            raise InputError(
                f"{self.out}: holds an earlier run; go on with --resume, or choose another --out"
            )
        if resume and not self.begun:
            raise InputError(f"{self.out}: no run to resume; train without --resume")
        if resume:
            self.config.require_same(load_recipe(self.out / "recipe.toml", (), NanoConfig))
        save_recipe(self.out / "recipe.toml", self.config)
        if not self.config.retriever and not (self.out / "retriever").is_dir():
            contrastive.run_recipe(self.config.contrastive, self.store, self.out / "retriever")
        index = self.out / "index"
        if not index.is_dir():
            retriever = BiEncoder.from_pretrained(self.retriever).to(self.device)
            build_index(Atlas(retriever, None), self.store, index)
        if not (self.out / "start").is_dir():
            texts = (text for passage in self.store for text in (passage.title, passage.text))
            new_reader(texts, self.config.reader).save_pretrained(self.out / "start")
        for number, stage in enumerate(self.config.stages):
            self._write(stage.name, lambda stage=stage: self.rows(stage, stage.context))
            if stage.review:
                self._write(f"{stage.name}-review", lambda number=number: self._review(number))
            if stage.data == "lookups":
                self._write(f"held-out-{stage.name}", lambda stage=stage: self._held_out(stage))

    @cached_property
    def store(self) -> PassageStore:
        """The passages."""
        return PassageStore.open(self.config.passages or [self.minipedia / "passages.jsonl"])

    @cached_property
    def minipedia(self) -> Path:
        """Minipedia, made where it is not there yet."""
        data = cache_dir() / "minipedia"
        prepare_minipedia(data)
        return data

    @property
    def retriever(self) -> str:
        """Where the retriever is."""
        return self.config.retriever or str(self.out / "retriever")

    @property
    def validation(self) -> Path:
        """The questions that are measured."""
        own = self.config.validation
        return Path(own) if own else self.minipedia / "supported" / "validation.jsonl"

    def rows(
        self, stage: NanoStage, context: ContextConfig, *, seed: int = 0
    ) -> Iterator[Mapping[str, Any]]:
        """Yield what a stage asks, with the passages where a context wants them given.

        Args:
            stage: what is asked.
            context: whether passages are given, and how many.
            seed: draws other look-ups and clozes of the same kind.
        """
        if stage.data == "lookups":
            asked = dataclasses.replace(
                stage.lookups, seed=stage.lookups.seed + seed, passages=context.n_context
            )
            return lookups(self._names(asked)[0], asked)
        if stage.data == "clozes":
            made = dataclasses.replace(stage.clozes, seed=stage.clozes.seed + seed)
            rows: Iterator[Mapping[str, Any]] = clozes(iter(self.store), made)
        else:
            held = {row["question"] for row in _read(self.validation)}
            train = Path(self.config.train or self.minipedia / "answerable" / "dev.jsonl")
            rows = (row for row in _read(train) if row["question"] not in held)
        if context.passages_from == "index":
            return rows
        given = self._with_passages(rows, context)
        return filter(None, map(_to_copy, given)) if stage.only_findable else given

    def _review(self, number: int) -> Iterator[Mapping[str, Any]]:
        """Yield what the stages before one asked, of each as many, in the form of that one."""
        stage = self.config.stages[number]
        before = self.config.before(number)
        seen = stage.training.total_steps * stage.training.bsz * stage.review
        for place, earlier in enumerate(before):
            rows = self.rows(earlier, stage.context, seed=1 + number)
            for row in islice(rows, math.ceil(seen / len(before))):
                asked = {"query": row.get("question"), "target": row.get("answers", [""])[0]}
                yield {**asked, **row, "id": f"{place}-{row['id']}"}

    def _with_passages(
        self, rows: Iterable[Mapping[str, Any]], context: ContextConfig
    ) -> Iterator[Mapping[str, Any]]:
        """Yield the rows, each with the passages that the retriever finds for it."""
        retriever = BiEncoder.from_pretrained(self.retriever).to(self.device)
        atlas = Atlas(retriever, None)
        atlas.open_index(self.out / "index")
        waiting = iter(rows)
        while some := list(islice(waiting, 256)):
            asked = [str(row.get("query", row.get("question"))) for row in some]
            found = atlas.retrieve(asked, topk=context.n_context)
            for row, passages in zip(some, found.passages, strict=True):
                yield {**row, "passages": [passage.record() for passage in passages]}

    def stage_config(self, number: int, stage: NanoStage) -> RunConfig:
        """Return the joint run that a stage is."""
        before = self.config.stages[number - 1].name if number else None
        reader = self.out / before / "model" / "reader" if before else self.out / "start"
        retrieves = stage.context.passages_from == "index"
        moved = self.out / before / "model" / "retriever" if before else Path()
        retriever = str(moved) if moved.is_dir() and before else self.retriever
        return RunConfig(
            title=f"{self.config.title}: {stage.name}",
            reader=HalfConfig(path=str(reader)),
            retriever=HalfConfig(path=retriever if retrieves else ""),
            data=self._asked(stage, index=str(self.out / "index") if retrieves else ""),
            task=_TASKS[stage.data],
            context=stage.context,
            objective=self.config.objective,
            staleness=self.config.staleness,
            training=stage.training,
            generation=self.config.generation,
        )

    def _asked(self, stage: NanoStage, *, index: str) -> DataConfig:
        own = str(self._data(stage.name))
        if not stage.review:
            return DataConfig(train=own, index=index)
        again = MixConfig(
            task="base", path=str(self._data(f"{stage.name}-review")), weight=stage.review
        )
        return DataConfig(mix=(MixConfig(path=own, weight=1 - stage.review), again), index=index)

    def _data(self, name: str) -> Path:
        return self.out / "data" / f"{name}.jsonl"

    def train(self, number: int, stage: NanoStage) -> bool:
        """Train a stage to its end; return False where it was asked to stop before."""
        out = self.out / stage.name
        if (out / "model").is_dir():
            return True
        config = self.stage_config(number, stage)
        atlas = open_halves(config).to(self.device)
        if config.data.index:
            atlas.open_index(config.data.index)
        examples = training_examples(config, atlas.config.task)
        notice(f"{stage.name}: {len(examples)} {stage.data}, {stage.training.total_steps} updates")
        resume = bool(step_directories(out / "checkpoints"))
        return run_joint(atlas, config, examples, [], out, resume=resume, watch=self.watch).finished

    def measure(self, stage: NanoStage) -> None:
        """Measure a finished stage on held-out look-ups and questions, once."""
        file = self.out / stage.name / "measured.json"
        if file.is_file():
            return
        model = self.out / stage.name / "model"
        reader = FiDReader.from_pretrained(model / "reader")
        found: dict[str, Any] = {"stage": stage.name}
        for name, config in self._measurements(stage).items():
            own = model / "retriever"
            retriever = BiEncoder.from_pretrained(own if own.is_dir() else self.retriever)
            atlas = Atlas(retriever, reader, config.model).to(self.device)
            if config.context.passages_from == "index":
                atlas.open_index(self.out / "index")
            asked = load_examples(config.data.validation, config.task, limit=self.config.measured)
            means = measure(atlas, asked, ks=(1, 5, 20), bsz=16).metrics.means()
            kept = [metric for metric in _KEPT[config.context.passages_from] if metric in means]
            found |= {name: len(asked)}
            found |= {f"{name}_{metric}": round(means[metric], 4) for metric in kept}
        notice(json.dumps(found))
        with atomic_path(file) as temporary:
            temporary.write_text(json.dumps(found) + "\n", "utf-8")

    def finish(self) -> dict[str, Any]:
        """Write ``finished.json`` and return it: where model and index are, what was measured."""
        last = self.config.stages[-1].name
        result = {
            "model": str(self.out / last / "model"),
            "index": str(self.out / "index"),
            "stages": [
                read_json(self.out / stage.name / "measured.json", what="a measured stage")
                for stage in self.config.stages
            ],
        }
        write_json(self.out / "finished.json", result)
        return result

    def _measurements(self, stage: NanoStage) -> dict[str, RunConfig]:
        """Return what a stage is measured on: held-out look-ups of each kind, and questions."""
        questions = next((s for s in self.config.stages if s.data == "questions"), stage)
        found = dataclasses.replace(
            questions.context, passages_from="index", n_context=5, retriever_n_context=5
        )
        asked = {
            each.name: RunConfig(
                task=_TASKS["lookups"],
                context=each.context,
                data=DataConfig(validation=str(self._data(f"held-out-{each.name}"))),
                generation=self.config.generation,
            )
            for each in self.config.stages
            if each.data == "lookups"
        }
        return asked | {
            "questions": RunConfig(
                task=_TASKS["questions"],
                context=found,
                data=DataConfig(validation=str(self.validation)),
                generation=self.config.generation,
            )
        }

    def _held_out(self, stage: NanoStage) -> Iterator[Mapping[str, Any]]:
        own = dataclasses.replace(stage.lookups, seed=HELD_OUT_SEED)
        return islice(lookups(self._names(own)[1], own), self.config.measured)

    def _names(self, config: LookupConfig) -> tuple[list[str], list[str]]:
        if config.names != "titles":
            tokenizer = FiDReader.from_pretrained(self.out / "start").tokenizer
            split = split_names(whole_words(tokenizer), words=1)
            return split if config.names == "words" else (pairs_of(split[0]), pairs_of(split[1]))
        return split_names([passage.title for passage in self.store], words=config.name_words)

    def _write(self, name: str, rows: Any) -> None:
        """Write rows as JSONL, unless they are there."""
        file = self._data(name)
        if not file.is_file():
            with atomic_path(file) as temporary, temporary.open("w", encoding="utf-8") as lines:
                lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows())


def _to_copy(row: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return a row whose target, or else the first other answer, stands in one of its passages."""
    texts = [f"{each['title']}\n{each['text']}" for each in row["passages"]]
    for answer in (row.get("target"), *row.get("answers", ())):
        if answer and any(map(answer_matcher([answer]), texts)):
            return {**row, "target": answer}
    return None


def _read(path: Path) -> Iterable[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)
