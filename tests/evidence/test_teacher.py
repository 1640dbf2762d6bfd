"""One run that measures every signal must be the run that each objective would have had."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from atlas_lm.tasks import load_examples
from atlas_lm.types import Batch, Example
from tests.tinyworld.world import draw, open_run, train_joint

SCRIPTS = Path(__file__).parents[2] / "benchmarks" / "evidence"
OVERRIDES = (
    "staleness.query_side=true",
    "staleness.refresh_schedule=never",
    "training.total_steps=5",
    "training.freeze_retriever_steps=2",
    "training.signal_round=3",
    "training.signal_epochs=2",
    "training.bsz=8",
    "training.retriever.warmup_steps=1",
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(autouse=True)
def _scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("loop", "emdr2")]


@pytest.mark.parametrize("objective", ["pdist", "adist", *SLOW])
def test_reader_and_retriever_are_those_of_the_whole_run(world, tmp_path, objective):
    from teacher import learn, load_signals, save_signals, teach

    name = f"objective.objective={objective}"
    whole = train_joint(world, tmp_path / "run", *OVERRIDES, name)
    atlas, config = open_run(world, *OVERRIDES, name)
    examples = load_examples(world.world / "train.jsonl", atlas.config.task)
    memory = teach(atlas, examples, config)
    save_signals(tmp_path / "signals", memory)
    learn(atlas, load_signals(tmp_path / "signals"), config, config.objective)
    for half in ("reader", "retriever"):
        expected = getattr(whole, half).state_dict()
        for key, value in getattr(atlas, half).state_dict().items():
            assert torch.allclose(value, expected[key], atol=1e-6), (half, key)


def test_the_control_measures_the_questions_and_passages_of_the_teacher(world):
    from teacher import oracle, teach, untaught

    atlas, config = open_run(world, *OVERRIDES)
    examples = load_examples(world.world / "train.jsonl", atlas.config.task)
    control = untaught(atlas, examples, config)
    taught = teach(atlas, examples, config)
    assert [m.ids for m in control.gathered] == [m.ids for m in taught.gathered]
    assert [m.passages for m in control.gathered] == [m.passages for m in taught.gathered]
    worth = oracle(taught, examples).gathered[0].signals.passage_log_likelihood
    assert worth.shape == (8, 8, 1)
    assert set(worth.unique().tolist()) <= {0.0, -20.0}


def test_t_gold_is_in_units_of_the_gold_scores_spread(world):
    from teacher import teach
    from tuning import Learning, gold_spread, objective_config, run_config

    atlas, config = open_run(world, *OVERRIDES)
    examples = load_examples(world.world / "train.jsonl", atlas.config.task)
    memory = teach(atlas, examples, config)
    half = objective_config("pdist", memory, Learning(gold_scale=0.5))
    whole = objective_config("pdist", memory, Learning(gold_scale=1.0))
    assert whole.temperature_gold == pytest.approx(2 * half.temperature_gold)
    one = dataclasses.replace(whole, temperature_gold=1.0)
    assert whole.temperature_gold == pytest.approx(gold_spread(one, memory))
    longer = run_config(config, Learning(epochs=3, lr_factor=2.0), 3).training
    assert longer.signal_epochs == 3
    assert longer.retriever.lr == pytest.approx(2 * config.training.retriever.lr)


@pytest.mark.parametrize("reading", ["fused", "one_prompt"])
def test_one_encoding_gives_a_decoders_signals(reading):
    from teacher import EVERY_SIGNAL, every_signal

    from tests.reader.causal_toys import PASSAGES, QUERY, TARGET, toy_reader

    reader = toy_reader(reading=reading).train()
    examples = [Example(q, q, t) for q, t in zip(QUERY, TARGET, strict=True)]
    inputs = reader.collate(QUERY, PASSAGES)
    found = every_signal(reader, inputs, Batch(tuple(examples)), EVERY_SIGNAL)
    expected = reader.signals(inputs, TARGET, EVERY_SIGNAL)
    for name in EVERY_SIGNAL:
        assert torch.allclose(getattr(found, name), getattr(expected, name), atol=1e-4), name
    assert not found.attention_mass.requires_grad
    assert reader.training
