"""Resume exactness, kills, signals, seeds."""

import os
import signal

import pytest
import torch

from atlas_lm.runtime.errors import InputError
from atlas_lm.staleness import LiveIndex
from tests.training.tiny import FakeAtlas, all_tensors, config, examples, run

CLOCK = ("tokens_per_second", "queries_per_second", "share_", "peak_mb_")


def numbers(log):
    """What was logged, without the times."""
    return [
        (step, {name: value for name, value in metrics.items() if not name.startswith(CLOCK)})
        for step, metrics in log
    ]


def stopping_at(step):
    """An evaluation that sends the process a Ctrl-C at ``step``."""
    calls = iter(range(1, 100))

    def evaluate():
        if next(calls) == step:
            os.kill(os.getpid(), signal.SIGINT)
        return {"exact_match": 0.5}

    return evaluate


@pytest.mark.parametrize("stop", [3, 5])
def test_stopped_and_resumed_equals_never_stopped_bit_for_bit(tmp_path, stop):
    cfg = config(evaluate_every=1)
    whole = run(tmp_path / "whole", cfg, evaluate=lambda: {"exact_match": 0.5})
    first = run(tmp_path / "parts", cfg, evaluate=stopping_at(stop))
    assert (first.outcome.step, first.outcome.finished) == (stop, False)

    torch.manual_seed(999)
    second = run(
        tmp_path / "parts",
        cfg,
        resume=True,
        model=FakeAtlas(seed=7),
        evaluate=lambda: {"exact_match": 0.5},
    )
    assert second.outcome.finished
    expected, found = all_tensors(whole.state), all_tensors(second.state)
    assert expected.keys() == found.keys()
    assert "index/embeddings" in expected
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name
    assert whole.state.facts() == second.state.facts()
    later = [entry for entry in numbers(whole.log) if entry[0] > stop]
    resumed = numbers(second.log)
    for _, metrics in later + resumed:  # the monitor's window starts anew
        metrics.pop("distinct_passages", None)
    assert resumed == later


def test_two_runs_with_one_seed_are_identical_and_another_seed_is_not(tmp_path):
    first = run(tmp_path / "a", config())
    second = run(tmp_path / "b", config())
    other = run(tmp_path / "c", config(seed=1))
    assert numbers(first.log) == numbers(second.log)
    assert numbers(first.log) != numbers(other.log)


def test_a_refresh_changes_what_is_trained_on(tmp_path):
    stale = run(tmp_path / "stale", config(), schedule="never")
    fresh = run(tmp_path / "fresh", config(), schedule="1")
    assert stale.model.index.step == 0
    assert fresh.model.index.step == 7
    assert fresh.model.index.fingerprint != stale.model.index.fingerprint
    assert not torch.equal(stale.model.index.embeddings, fresh.model.index.embeddings)
    weights = [model.retriever.passages.weight for model in (stale.model, fresh.model)]
    assert not torch.equal(*weights)


def test_resume_takes_any_checkpoint_that_is_kept(tmp_path):
    cfg = config(save_every=2, keep_last=4)
    whole = run(tmp_path / "run", cfg)
    names = [path.name for path in sorted((tmp_path / "run").iterdir())]
    assert names == [f"step-{step:08d}" for step in (2, 4, 6, 8)]
    for path in sorted((tmp_path / "run").iterdir())[2:]:
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    again = run(tmp_path / "run", cfg, resume=True)
    for name, tensor in all_tensors(whole.state).items():
        assert torch.equal(tensor, all_tensors(again.state)[name]), name


def test_other_data_is_refused(tmp_path):
    run(tmp_path, config())
    with pytest.raises(InputError, match="examples was 10 and is 11"):
        run(tmp_path, config(total_steps=9), resume=True, data=examples(11))


def test_another_seed_is_refused(tmp_path):
    run(tmp_path, config())
    with pytest.raises(InputError, match="seed was 0 and is 3"):
        run(tmp_path, config(seed=3, total_steps=9), resume=True)


def test_sigterm_however_often_is_heeded_too_and_handlers_are_given_back(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    def evaluate():
        signal.raise_signal(signal.SIGTERM)  # from the scheduler
        signal.raise_signal(signal.SIGTERM)  # and from the launcher, to which it was sent as well
        return {}

    stopped = run(tmp_path, config(evaluate_every=2), evaluate=evaluate)
    assert stopped.outcome.step == 2
    assert stopped.outcome.checkpoint.name == "step-00000002"
    after = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert after == before


def test_a_refresh_is_given_up_and_made_anew(tmp_path, monkeypatch):
    def struck(live, rows, step, stopping):
        signal.raise_signal(signal.SIGTERM)
        renew(live, rows, step, stopping)

    renew = LiveIndex.renew
    whole = run(tmp_path / "whole", config())
    with monkeypatch.context() as patch:
        patch.setattr(LiveIndex, "renew", struck)
        stopped = run(tmp_path / "run", config())
    assert (stopped.outcome.step, stopped.outcome.finished) == (3, False)
    assert stopped.state.freshness.version == 0
    assert stopped.outcome.checkpoint.name == "step-00000003"
    resumed = run(tmp_path / "run", config(), resume=True, model=FakeAtlas(seed=7))
    assert numbers(resumed.log)[0][0] == 4
    for name, tensor in all_tensors(whole.state).items():
        assert torch.equal(tensor, all_tensors(resumed.state)[name]), name


def test_a_request_in_the_last_step_leaves_what_follows_training_undone(tmp_path):
    def evaluate():
        signal.raise_signal(signal.SIGTERM)
        return {}

    stopped = run(tmp_path, config(), evaluate=evaluate)
    assert (stopped.outcome.step, stopped.outcome.finished) == (8, False)
    again = run(tmp_path, config(), resume=True)
    assert (again.outcome.step, again.outcome.finished, again.log) == (8, True, [])


def test_a_second_ctrl_c_strikes_at_once(tmp_path, request):
    def evaluate():
        signal.raise_signal(signal.SIGINT)  # handled before it returns: two kills may become one
        signal.raise_signal(signal.SIGINT)
        return {}

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # may be ignored by a shell
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, config(evaluate_every=1), evaluate=evaluate)
    assert list(tmp_path.iterdir()) == []
