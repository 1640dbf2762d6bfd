"""What a run survives: damaged checkpoints, clocks that go back, full disks, poisoned examples."""

import itertools
import json
import os
import shutil
import time

import pytest
import torch
from safetensors.torch import load_file

from atlas_lm.runtime.errors import InputError
from atlas_lm.training import Checkpoints, RunLog
from atlas_lm.training.loop import TrainingStopped
from tests.training.tiny import FakeAtlas, all_tensors, config, examples, run


def damage(file):
    """Turn one bit of a file, in the middle of its last kilobyte; its size stays."""
    data = bytearray(file.read_bytes())
    data[-min(len(data) // 2, 500)] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.safetensors", "index.safetensors", "state.json"]
)
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before_it(tmp_path, capsys, name):
    cfg = config(save_every=2, keep_last=3)
    whole = run(tmp_path / "whole", cfg)
    run(tmp_path / "run", cfg)
    damage(tmp_path / "run" / "step-00000008" / name)
    again = run(tmp_path / "run", cfg, resume=True, model=FakeAtlas(seed=5))
    shown = " ".join(capsys.readouterr().err.split())
    assert f"step-00000008/{name}" in shown
    assert "step-00000006 is taken instead" in shown
    assert [step for step, _ in again.log] == [7, 8]
    assert (tmp_path / "run" / "damaged-step-00000008").is_dir()
    for key, tensor in all_tensors(whole.state).items():
        assert torch.equal(tensor, all_tensors(again.state)[key]), key


def test_a_missing_state_is_damage_too(tmp_path):
    run(tmp_path, config(save_every=4))
    (tmp_path / "step-00000008" / "state.json").unlink()
    assert [step for step, _ in run(tmp_path, config(), resume=True).log] == [5, 6, 7, 8]


def test_where_none_is_whole_nothing_is_moved(tmp_path):
    run(tmp_path, config(save_every=4))
    for path in tmp_path.iterdir():
        damage(path / "model.safetensors")
    with pytest.raises(InputError, match="no checkpoint before step-00000008 is whole"):
        run(tmp_path, config(), resume=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000004", "step-00000008"]


def test_a_checkpoint_that_is_named_is_not_replaced_by_another(tmp_path):
    done = run(tmp_path, config(save_every=4))
    damage(tmp_path / "step-00000008" / "model.safetensors")
    with pytest.raises(InputError, match="checksum differs"):
        Checkpoints(tmp_path).load(done.state, tmp_path / "step-00000008")


def test_the_best_is_kept_beside_the_last(tmp_path):
    scores = iter([0.1, 0.5, 0.9, 0.2, 0.9, 0.3, 0.1, 0.2])
    cfg = config(best_metric="exact_match", evaluate_every=1, save_every=1, keep_last=2)
    done = run(tmp_path, cfg, evaluate=lambda: {"exact_match": next(scores)})
    assert [path.name[-1] for path in sorted(tmp_path.iterdir())] == ["3", "7", "8"]
    assert done.state.best.step == 3
    assert Checkpoints(tmp_path).best().name == "step-00000003"


def test_less_can_be_better_and_the_best_outlives_a_resume(tmp_path):
    cfg = config(best_metric="-loss", evaluate_every=2, keep_last=1)
    scores = iter([0.3, 0.1, float("nan"), 0.2])
    first = run(tmp_path, cfg, evaluate=lambda: {"loss": next(scores)})
    assert first.state.best.step == 4
    longer = config(best_metric="-loss", evaluate_every=2, keep_last=1, total_steps=12)
    scores = iter([0.15, 0.11])
    second = run(tmp_path, longer, resume=True, evaluate=lambda: {"loss": next(scores)})
    assert second.state.best.step == 4
    assert [path.name[-2:] for path in sorted(tmp_path.iterdir())] == ["04", "12"]


def test_a_metric_that_is_not_measured_is_named_and_no_update_is_lost(tmp_path):
    cfg = config(best_metric="exact_mtch")
    with pytest.raises(InputError, match="did you mean 'exact_match'"):
        run(tmp_path, cfg, evaluate=lambda: {"exact_match": 1.0})
    named = config(best_metric="exact_match")
    done = run(tmp_path, named, resume=True, evaluate=lambda: {"exact_match": 1.0})
    assert (done.outcome.step, done.outcome.finished) == (8, True)


def test_the_best_is_by_the_evaluation_and_never_by_the_luck_of_a_batch(tmp_path):
    cfg = config(best_metric="-reader_loss")
    with pytest.raises(InputError, match=r"not measured; there are exact_match"):
        run(tmp_path, cfg, evaluate=lambda: {"exact_match": 0.5})


def test_an_evaluation_that_fails_loses_no_update(tmp_path):
    def fail():
        raise RuntimeError("no such answer")

    with pytest.raises(RuntimeError, match="no such answer"):
        run(tmp_path, config(), evaluate=fail)
    assert Checkpoints(tmp_path).latest().name == "step-00000008"


def test_a_skipped_update_is_never_the_best_and_ends_no_run(tmp_path):
    cfg = config(best_metric="-reader_loss", save_every=1, keep_last=1)
    model = FakeAtlas()
    model.poisoned = frozenset(["e0"])
    done = run(tmp_path, cfg, model=model)
    assert done.outcome.finished
    assert done.state.skipped > 0
    losses = {step: row["reader_loss"] for step, row in done.log if "reader_loss" in row}
    assert done.state.best.step == min(losses, key=losses.get)


def test_no_best_is_said(tmp_path):
    run(tmp_path, config())
    with pytest.raises(InputError, match=r"training\.best_metric"):
        Checkpoints(tmp_path).best()


def test_a_best_that_is_gone_is_named_and_one_that_an_older_checkpoint_knows_found(
    tmp_path,
):
    scores = iter([0.1, 0.5, 0.9, 0.2, 0.9, 0.3, 0.1, 0.2])
    cfg = config(best_metric="exact_match", evaluate_every=1, save_every=1, keep_last=2)
    run(tmp_path, cfg, evaluate=lambda: {"exact_match": next(scores)})
    (tmp_path / "step-00000008" / "state.json").write_text("{")
    assert Checkpoints(tmp_path).best().name == "step-00000003"
    (tmp_path / "step-00000003").rename(tmp_path / "damaged-step-00000003")
    with pytest.raises(InputError, match=r"step-00000003, is gone.*take the newest"):
        Checkpoints(tmp_path).best()


def test_a_clock_that_goes_backwards_harms_nothing(tmp_path, monkeypatch):
    cfg = config(save_every=2, keep_last=2)
    whole = run(tmp_path / "whole", cfg)
    moments = itertools.count(4e9, -1000.0)
    monkeypatch.setattr(time, "time", lambda: next(moments))
    run(tmp_path / "run", cfg)
    shutil.rmtree(tmp_path / "run" / "step-00000008")
    for age, path in enumerate(sorted((tmp_path / "run").iterdir())):
        os.utime(path, (1e9 - age, 1e9 - age))
    again = run(tmp_path / "run", cfg, resume=True)
    assert [step for step, _ in again.log] == [7, 8]
    for key, tensor in all_tensors(whole.state).items():
        assert torch.equal(tensor, all_tensors(again.state)[key]), key
    for first_step in (0, 2):
        with RunLog(tmp_path / "log.jsonl", total_steps=4, first_step=first_step) as log:
            log(first_step + 1, {"loss": 1.0})
            log(first_step + 2, {"loss": 1.0})
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]


def test_ten_skipped_updates_end_the_run_with_what_was_learnt_before_them_saved(tmp_path):
    model, learnt = FakeAtlas(), {}

    def poison(step):
        if step == 3:
            learnt.update({k: tensor.clone() for k, tensor in model.reader.state_dict().items()})
            model.poisoned = frozenset(example.id for example in examples())

    cfg = config(total_steps=16)
    with pytest.raises(TrainingStopped, match=r"step 13: 10 updates .* the weights of step 3"):
        run(tmp_path, cfg, model=model, after=poison)
    saved = load_file(tmp_path / "step-00000013" / "model.safetensors")
    assert all(torch.equal(tensor, saved[f"reader.{name}"]) for name, tensor in learnt.items())
    resumed = run(tmp_path, cfg, resume=True, model=FakeAtlas(seed=5))
    assert [step for step, _ in resumed.log] == [14, 15, 16]
    assert resumed.state.skipped_in_row == 0
