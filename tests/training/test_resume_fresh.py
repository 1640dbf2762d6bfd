"""Resume exactness whatever keeps the index fresh."""

import os
import signal

import pytest
import torch

from atlas_lm.staleness import BackgroundConfig, PartialConfig, StalenessConfig
from tests.training.test_resume import numbers
from tests.training.tiny import FakeAtlas, FakeLauncher, all_tensors, config, run

WAYS = {
    "drift": StalenessConfig(refresh_schedule="drift>0.0005", probe_every=2),
    "partial": StalenessConfig(
        refresh_schedule="2", refresh="partial", partial=PartialConfig(budget=5)
    ),
    "partial on drift": StalenessConfig(
        refresh_schedule="drift>0.0005",
        probe_every=1,
        refresh="partial",
        partial=PartialConfig(budget=5),
    ),
    "background": StalenessConfig(
        refresh_schedule="2", refresh="background", background=BackgroundConfig(steps=3)
    ),
    "no probe": StalenessConfig(refresh_schedule="3", probe_passages=0),
}
CFG = config(evaluate_every=1, log_every=2)


@pytest.mark.parametrize("stop", [3, 4, 5])
@pytest.mark.parametrize("way", WAYS)
def test_stopped_and_resumed_equals_never_stopped_bit_for_bit(tmp_path, way, stop):
    staleness = WAYS[way]
    whole = run(tmp_path / "whole", CFG, staleness=staleness, evaluate=lambda: {})
    calls = iter(range(1, 100))

    def interrupt():
        if next(calls) == stop:
            os.kill(os.getpid(), signal.SIGINT)
        return {}

    first = run(tmp_path / "parts", CFG, staleness=staleness, evaluate=interrupt)
    assert first.outcome.step == stop
    torch.manual_seed(999)
    other = FakeAtlas(seed=7)
    other.index = FakeAtlas().index  # the one the run began with
    second = run(
        tmp_path / "parts",
        CFG,
        staleness=staleness,
        resume=True,
        model=other,
        evaluate=lambda: {},
    )
    expected, found = all_tensors(whole.state), all_tensors(second.state)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name
    assert whole.state.facts() == second.state.facts()
    assert whole.model.index.embeddings.equal(second.model.index.embeddings)
    assert whole.state.freshness.version > 0
    later = [entry for entry in numbers(whole.log) if entry[0] > stop]
    resumed = numbers(second.log)
    for _, metrics in later + resumed:  # the collapse monitor's window starts anew
        metrics.pop("distinct_passages", None)
    assert resumed == later


def test_a_background_refresh_under_way_is_stopped_and_its_encoder_saved(tmp_path):
    model = FakeAtlas()
    launcher = FakeLauncher(model.retriever, looks=100)
    staleness = StalenessConfig(refresh_schedule="5", refresh="background")
    done = run(tmp_path, CFG, staleness=staleness, model=model, launcher=launcher)
    assert (done.outcome.checkpoint / "background.safetensors").is_file()
    assert launcher.launched == [(5, False)]
    assert "index/embeddings" not in all_tensors(done.state)
    again = FakeAtlas(seed=3)
    relauncher = FakeLauncher(again.retriever, looks=0)
    longer = config(evaluate_every=1, log_every=2, total_steps=10)
    finished = run(
        tmp_path, longer, staleness=staleness, model=again, launcher=relauncher, resume=True
    )
    assert relauncher.launched == [(5, True)]
    assert finished.model.index.step == 5


def test_row_steps_are_in_the_checkpoint(tmp_path):
    done = run(tmp_path, CFG, staleness=WAYS["partial"])
    steps = all_tensors(done.state)["index/row_steps"]
    assert steps.dtype == torch.int32
    assert set(steps.tolist()) <= {0, 2, 4, 6}
    assert len(set(steps.tolist())) > 1
    last = dict(done.log)[8]
    assert last["passages_embedded"] <= 3 * 5
    assert last["steps_since_refresh"] == pytest.approx(8 - steps.double().mean().item())
