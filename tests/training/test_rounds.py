"""Signals gathered over several steps: how often they are used, resumed, and what they equal."""

import math

import pytest
import torch

from atlas_lm.runtime.errors import InputError
from atlas_lm.training import OptimConfig
from atlas_lm.training.loop import TrainingStopped
from tests.training.test_resume import numbers, stopping_at
from tests.training.tiny import FakeAtlas, all_tensors, config, examples, run

STILL = OptimConfig(lr=0.0)
"""An optimizer that moves nothing: the reader of these tests says the same at every step."""


def rounds(**values):
    defaults = {"signal_round": 4, "signal_epochs": 3, "signal_batches": 2, "dropout": 0.0}
    return config(**(defaults | values))


def test_the_retriever_moves_at_the_end_of_each_round_and_at_no_other_step(tmp_path):
    """8 steps of 2 micro-batches, rounds of 4: 8 gathered, 4 updates a pass, 3 passes, 2 rounds."""
    model, seen = FakeAtlas(), []

    def remember():
        seen.append(model.retriever.queries.weight.detach().clone())
        return {}

    start = model.retriever.queries.weight.detach().clone()
    done = run(tmp_path, rounds(evaluate_every=1), model=model, schedule="never", evaluate=remember)
    moved = [not torch.equal(a, b) for a, b in zip([start, *seen[:-1]], seen, strict=True)]
    assert moved == [False, False, False, True, False, False, False, True]
    assert {how for _, how in model.calls} == {"measured"}
    lines = {step: metrics for step, metrics in done.log if "retriever_updates" in metrics}
    assert {step: line["retriever_updates"] for step, line in lines.items()} == {4: 12.0, 8: 24.0}
    assert all(math.isfinite(line["grad_norm_retriever"]) for line in lines.values())
    assert rounds().retriever_updates == 24
    assert done.state.signals.gathered == []


def test_one_pass_over_a_whole_round_is_one_update_of_its_mean_gradient(tmp_path):
    """A round of 2 steps is one step of twice the micro-batches: the reader stands still."""
    optim = OptimConfig(lr=0.05, weight_decay=0.1)
    same = {"reader": STILL, "retriever": optim, "dropout": 0.0}
    at_once = run(
        tmp_path / "a", config(total_steps=1, accumulation_steps=4, **same), schedule="never"
    )
    gathered = run(
        tmp_path / "b",
        config(total_steps=2, signal_round=2, signal_batches=4, **same),
        schedule="never",
    )
    for name, tensor in at_once.model.retriever.state_dict().items():
        torch.testing.assert_close(tensor, gathered.model.retriever.state_dict()[name])
    assert not torch.equal(
        at_once.model.retriever.queries.weight, FakeAtlas().retriever.queries.weight
    )


def test_while_the_retriever_is_frozen_nothing_is_gathered(tmp_path):
    model = FakeAtlas()
    run(tmp_path, rounds(freeze_retriever_steps=4), model=model, schedule="never")
    assert [how for _, how in model.calls] == [False] * 8 + ["measured"] * 8


@pytest.mark.parametrize("stop", [2, 4, 6])
def test_a_run_stopped_within_a_round_resumes_bit_for_bit(tmp_path, stop):
    cfg = rounds(evaluate_every=1, dropout=0.1)
    whole = run(tmp_path / "whole", cfg, evaluate=lambda: {"exact_match": 0.5})
    first = run(tmp_path / "parts", cfg, evaluate=stopping_at(stop))
    assert (first.outcome.step, first.outcome.finished) == (stop, False)
    saved = {path.stem for path in first.outcome.checkpoint.glob("*.safetensors")}
    assert ("signals" in saved) == bool(stop % 4)
    second = run(
        tmp_path / "parts",
        cfg,
        resume=True,
        evaluate=lambda: {"exact_match": 0.5},
    )
    expected, found = all_tensors(whole.state), all_tensors(second.state)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name
    later = [entry for entry in numbers(whole.log) if entry[0] > stop]
    resumed = numbers(second.log)
    for _, metrics in later + resumed:  # the monitor's window starts anew
        metrics.pop("distinct_passages", None)
    assert resumed == later


def test_a_round_whose_gradient_is_not_finite_moves_nothing_and_is_named(tmp_path, capsys):
    model = FakeAtlas()
    whole = model.retriever_loss

    def poisoned(measured):
        loss, metrics = whole(measured)
        return (loss * torch.nan if "e3" in measured.ids else loss), metrics

    model.retriever_loss = poisoned
    done = run(tmp_path, rounds(total_steps=4), model=model, schedule="never")
    assert done.state.skipped == 1
    assert "e3" in capsys.readouterr().err
    assert all(torch.isfinite(tensor).all() for tensor in model.retriever.state_dict().values())


def test_a_retriever_that_no_round_can_move_ends_the_run(tmp_path):
    model = FakeAtlas()
    whole = model.retriever_loss
    model.retriever_loss = lambda measured: (whole(measured)[0] * torch.nan, {})
    each = rounds(total_steps=16, signal_round=2, signal_epochs=2, signal_batches=4)
    with pytest.raises(TrainingStopped, match=r"step 10: the last 10 updates of the retriever"):
        run(tmp_path, each, model=model, schedule="never")
    assert run(tmp_path, each, resume=True, schedule="never").outcome.finished


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"signal_epochs": 2}, ["training.signal_epochs=2", "training.signal_round=1"]),
        ({"signal_batches": 2}, ["training.signal_batches=2", "training.signal_round=1"]),
        ({"signal_round": 3}, ["training.signal_round=3", "8 steps", "total_steps=8"]),
        ({"signal_round": 0}, ["training.signal_round=0"]),
        (
            {"signal_round": 8, "signal_batches": 16},
            ["training.retriever.warmup_steps=2", "1 updates of the retriever"],
        ),
    ],
)
def test_contradictions_are_refused(values, words):
    with pytest.raises(InputError) as error:
        config(**values)
    assert all(word in str(error.value) for word in words)


def test_all_examples_of_a_round_are_learnt_from(tmp_path):
    """20 examples in 10 micro-batches: each micro-batch once a pass."""
    model, learnt = FakeAtlas(), []
    whole = model.retriever_loss
    model.retriever_loss = lambda measured: learnt.append(measured.ids) or whole(measured)
    cfg = rounds(total_steps=5, signal_round=5, signal_epochs=2, signal_batches=4)
    run(tmp_path, cfg, model=model, schedule="never", data=examples(20))
    assert len(learnt) == 20
    assert sorted(learnt[:10]) == sorted(learnt[10:])
    assert learnt[:10] != learnt[10:]
