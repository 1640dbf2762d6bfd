"""The work behind the cells of minipedia_joint.py."""

from __future__ import annotations

import argparse
import dataclasses
import shutil
from collections.abc import Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from cells import load_cell, measured
from minipedia_setup import DEPTH, STARTS, UNTRAINED, Minipedia, Schedule, trainable
from safetensors.torch import save_file
from teacher import (
    NEEDS,
    learn,
    load_signals,
    oracle,
    save_signals,
    shuffled,
    teach,
    train_reader,
    untaught,
)
from torch import Tensor
from tuning import Learning, choose, objective_config, run_config

from atlas_lm.cli.joint import build_index, open_halves, run_joint
from atlas_lm.cli.quickstart import with_demonstrations
from atlas_lm.config import RunConfig
from atlas_lm.evaluation.bm25 import Bm25
from atlas_lm.model import Atlas
from atlas_lm.retriever import BiEncoder
from atlas_lm.staleness import train_query_side_only
from atlas_lm.training.rounds import SignalMemory

N_CONTEXT = 5
VARIANTS: dict[str, tuple[int, tuple[str, ...]]] = {
    "two alternations": (2, ()),
    "four alternations": (4, ()),
    "both towers, refreshed": (4, ("staleness.query_side=false",)),
}
"""Rounds of signals, and other overrides; with both towers the index is refreshed after each."""


def every_rank(found: Sequence[Sequence[int]], count: int) -> Tensor:
    """Return rankings of `DEPTH` of ``count`` rows; a shorter one goes on with the first others."""
    full = []
    for rows in found:
        others = (row for row in range(count) if row not in set(rows))
        full.append(list(islice(chain(rows, others), DEPTH)))
    return torch.tensor(full)


class JointWork:
    """What each cell does; a method returns what is kept of it."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.world = Minipedia(args)
        self.start: str = args.start
        self.signals = frozenset(NEEDS[name] for name in args.objectives)

    def retrieval(self, name: str) -> dict[str, Any]:
        world = self.world
        if name == "bm25":
            queries = [example.query for example in world.test]
            rows = every_rank(Bm25(world.store).search(queries, DEPTH), len(world.store))
        else:
            rows = world.rank(world.searching(name), world.test)
        world.save_ranking(name, rows)
        return measured(world.recall(world.test, rows), retriever=name)

    def prompt(self, name: str, reading: str) -> dict[str, Any]:
        world = self.world
        rows = None if name == "closed" else world.ranking(name)
        shots = world.shots(world.config(24, 0))
        found = world.answers(UNTRAINED, reading, rows, N_CONTEXT, shots)
        return measured(found, retriever=name, reading=reading)

    def teacher(self, shots: int, seed: int) -> dict[str, Any]:
        world, config = self.world, self.world.config(shots, seed)
        atlas = self._model(config, UNTRAINED)
        memory = teach(atlas, world.shots(config), config, self.signals)
        self._keep_reader(f"s{shots}-{seed}-{self.start}", atlas)
        save_signals(self._signals("trained", shots, seed), memory)
        return {"shots": shots, "seed": seed, **dataclasses.asdict(Schedule.of(shots))}

    def control(self, shots: int, seed: int, prompted: bool) -> dict[str, Any]:
        world, config = self.world, self.world.config(shots, seed)
        atlas, examples = self._model(config, UNTRAINED), self.world.shots(config)
        if prompted:
            atlas = with_demonstrations(atlas, examples)
        memory = untaught(atlas, examples, config, self.signals)
        save_signals(
            self._signals("control-prompted" if prompted else "control", shots, seed), memory
        )
        return {"shots": shots, "seed": seed, "questions": len(world.shots(config))}

    def reader_alone(self, shots: int, seed: int, kind: str) -> dict[str, Any]:
        config = self.world.config(shots, seed)
        atlas = self._model(config, UNTRAINED)
        if kind == "closed":
            context = dataclasses.replace(config.context, passages_from="none")
            config = dataclasses.replace(
                config, context=context, retriever=type(config.retriever)()
            )
        else:
            atlas = Atlas(atlas.retriever, atlas.reader.with_settings(reading=kind))  # type: ignore[attr-defined]
            atlas.open_index(self.world.index(self.start))
        train_reader(atlas.with_config(config.model), self.world.shots(config), config)
        self._keep_reader(f"s{shots}-{seed}-{self.start}-{kind}", atlas)
        return {"shots": shots, "seed": seed}

    def read(
        self, shots: int, seed: int, name: str, reading: str, trained: str = "fused"
    ) -> dict[str, Any]:
        state = f"s{shots}-{seed}-{self.start}"
        if name == "closed" or trained == "one_prompt":
            state += f"-{name if name == 'closed' else trained}"
        rows = None if name == "closed" else self.world.ranking(name)
        found = self.world.answers(state, reading, rows, N_CONTEXT)
        return measured(found, retriever=name, reading=reading, trained=trained)

    def tune(self, shots: int, seed: int, objective: str) -> dict[str, Any]:
        world, config = self.world, self.world.config(shots, seed)
        memory = load_signals(self._signals("trained", shots, seed))
        drawn = {example.id for example in world.shots(config)}
        spare = [e for e in world.load("supported/train.jsonl") if e.id not in drawn]
        dev = [*world.validation, *spare]

        def score(learning: Learning) -> float:
            atlas = self._learnt(config, memory, objective, learning)
            found = world.recall(dev, world.rank(atlas, dev)).metrics.means()
            return sum(found[f"recall_at_{k}"] for k in (1, 5, 20)) / 3

        best, tried = choose(objective, score)
        return {
            "objective": objective,
            "dev_questions": len(dev),
            "chosen": dataclasses.asdict(best),
            "tried": tried,
        }

    def learn(self, shots: int, seed: int, teacher: str, objective: str) -> dict[str, Any]:
        world, config = self.world, self.world.config(shots, seed)
        memory = self._memory(teacher, shots, seed, config)
        learning = self._learning(shots, objective)
        atlas = self._learnt(config, memory, objective, learning)
        rows = world.rank(atlas, world.test)
        world.save_ranking(f"s{shots}-{seed}-{self.start}-{teacher}-{objective}", rows)
        setting = {"teacher": teacher, "objective": objective, **dataclasses.asdict(learning)}
        return measured(world.recall(world.test, rows), setting=setting, shots=shots, seed=seed)

    def joint(self, shots: int, seed: int, objective: str) -> dict[str, Any]:
        state = f"s{shots}-{seed}-{self.start}"
        rows = self.world.ranking(f"{state}-trained-{objective}")
        return measured(self.world.answers(state, "fused", rows, N_CONTEXT), objective=objective)

    def towers(self, shots: int, seed: int, objective: str) -> dict[str, Any]:
        world, config = self.world, self.world.config(shots, seed, "staleness.query_side=false")
        memory = load_signals(self._signals("trained", shots, seed))
        atlas = self._searching(config, query_side=False)
        learning = self._learning(shots, objective)
        learn_from(atlas, memory, config, objective, learning)
        stale = world.recall(world.test, world.rank(atlas, world.test))
        context = dataclasses.replace(atlas.config.context, n_rerank=100)
        reranking = atlas.with_config(dataclasses.replace(atlas.config, context=context))
        reranked = world.recall(world.test, world.rank(reranking, world.test))
        path = world.out / "indexes" / f"towers-{shots}-{seed}-{objective}"
        build_index(atlas, world.store, path)
        atlas.open_index(path)
        fresh = world.recall(world.test, world.rank(atlas, world.test))
        shutil.rmtree(path)
        return {
            "objective": objective,
            "stale": measured(stale),
            "stale, 100 reranked": measured(reranked),
            "refreshed": measured(fresh),
        }

    def variant(self, shots: int, seed: int, name: str) -> dict[str, Any]:
        rounds, overrides = VARIANTS[name]
        world, plan = self.world, Schedule.of(shots)
        every = plan.teaching // rounds
        overrides = (*overrides, f"training.signal_round={every}")
        if "staleness.query_side=false" in overrides:
            spans = (plan.warm + every, plan.warm + plan.teaching + 1)
            overrides = (*overrides, f"staleness.refresh_schedule={spans[0]}-{spans[1]}:{every}")
        objective = self.args.objective
        learning = self._learning(shots, objective)
        config = world.config(shots, seed, *overrides)
        memory = load_signals(self._signals("trained", shots, seed))
        chosen = objective_config(objective, memory, learning)
        config = run_config(config, learning, plan.teaching)
        training = dataclasses.replace(config.training, signal_round=every)
        config = dataclasses.replace(
            config, training=training, objective=chosen, retriever=self._start_half(config)
        )
        folder = world.out / "runs" / f"{shots}-{seed}-{objective}-{name}".replace(" ", "_")
        shutil.rmtree(folder, ignore_errors=True)
        atlas = open_halves(config)
        shutil.copytree(world.index(self.start), folder / "index")
        atlas.open_index(folder / "index")
        run_joint(atlas, config, world.shots(config), [], folder)
        rows = world.rank(atlas, world.test)
        state = f"variant-s{shots}-{seed}-{self.start}-{objective}-{name}"
        self._keep_reader(state, atlas)
        result = {"recall": measured(world.recall(world.test, rows))}
        answers = world.answers(state, "fused", rows, N_CONTEXT)
        shutil.rmtree(folder)
        return {**result, **measured(answers, variant=name, objective=objective)}

    def _model(self, config: RunConfig, state: str) -> Atlas:
        """Return the one reader in a state, with the starting retriever and its index."""
        self.world.reader_in(state, "fused")
        self.world.leave_state()
        retriever = train_query_side_only(self.world.retriever(self.start))
        base = self.world.base
        atlas = Atlas(
            retriever, base.reader, dataclasses.replace(config.model, task=base.config.task)
        )
        atlas.open_index(self.world.index(self.start))
        return atlas

    def _keep_reader(self, state: str, atlas: Atlas) -> None:
        path = self.world.weights_path(state)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(trainable(atlas.reader.model), path)  # type: ignore[attr-defined]

    def _searching(self, config: RunConfig, *, query_side: bool = True) -> Atlas:
        retriever: BiEncoder = self.world.retriever(self.start)
        if query_side:
            train_query_side_only(retriever)
        task = self.world.base.config.task
        atlas = Atlas(retriever, None, dataclasses.replace(config.model, task=task))
        atlas.open_index(self.world.index(self.start))
        return atlas

    def _learnt(
        self, config: RunConfig, memory: SignalMemory, objective: str, learning: Learning
    ) -> Atlas:
        atlas = self._searching(config)
        learn_from(atlas, memory, config, objective, learning)
        return atlas

    def _learning(self, shots: int, objective: str) -> Learning:
        """Return what the tuning of the first seed chose, of these shots or of `--tuned-on`."""
        tuned_on = self.args.tuned_on or f"s{shots}-{self.args.seeds[0]}"
        name = f"tune/{tuned_on}-{self.start}/{objective}"
        if self.args.untuned:
            return Learning()
        return Learning(**load_cell(self.args.out, name)["chosen"])

    def _memory(self, teacher: str, shots: int, seed: int, config: RunConfig) -> SignalMemory:
        derived = teacher in ("oracle", "shuffled")
        memory = load_signals(self._signals("trained" if derived else teacher, shots, seed))
        if teacher == "oracle":
            return oracle(memory, self.world.shots(config))
        return shuffled(memory) if teacher == "shuffled" else memory

    def _signals(self, teacher: str, shots: int, seed: int) -> Path:
        return self.args.out / "signals" / f"{teacher}-s{shots}-{seed}-{self.start}"

    def _start_half(self, config: RunConfig) -> Any:
        return dataclasses.replace(config.retriever, path=STARTS[self.start])


def learn_from(
    atlas: Atlas, memory: SignalMemory, config: RunConfig, objective: str, learning: Learning
) -> None:
    """Teach the retriever of ``atlas`` in place."""
    chosen = objective_config(objective, memory, learning)
    learn(atlas, memory, run_config(config, learning, len(memory.gathered)), chosen)
