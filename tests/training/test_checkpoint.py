import errno
import json
import os
import shutil

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from atlas_lm.runtime.errors import InputError
from atlas_lm.staleness import StalenessConfig
from atlas_lm.training import Checkpoints, new_state
from atlas_lm.training import checkpoint as checkpoint_module
from atlas_lm.training.state import TrainState, load_weights, weights
from tests.training.tiny import FakeAtlas, all_tensors, config, examples, run


def state_at(step):
    model = FakeAtlas()
    state = new_state(
        model, examples(), config(), freshness=model.keeper(StalenessConfig(), config())
    )
    state.step = step
    return state


def test_the_files_are_these_and_nothing_is_pickled(tmp_path):
    path = run(tmp_path, config(), schedule="3").outcome.checkpoint
    names = ["index", "model", "optimizer", "random"]
    assert sorted(p.name for p in path.iterdir()) == [
        *(f"{name}.safetensors" for name in names),
        "state.json",
    ]
    facts = json.loads((path / "state.json").read_text())
    assert facts["step"] == 8
    assert facts["files"] == {file.name: file.stat().st_size for file in path.glob("*.safetensors")}


def test_a_killed_save_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state_at(1))
    whole = checkpoint_module.save_file
    written = []

    def killed(tensors, target):
        written.append(target)
        whole(tensors, target)
        if len(written) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint_module, "save_file", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(state_at(2))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    state = state_at(9)
    Checkpoints(tmp_path).load(state)
    assert state.step == 1


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("I/O error: No space left on device (os error 28)"),
        SafetensorError("I/O error: Disk quota exceeded (os error 122)"),
    ],
)
def test_a_full_disk_is_said_plainly_and_leaves_nothing(tmp_path, monkeypatch, error):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state_at(1))

    def full(tensors, target):
        target.write_bytes(b"half")
        raise error

    monkeypatch.setattr(checkpoint_module, "save_file", full)
    with pytest.raises(InputError, match=r"step-00000002: the disk is full.*MB"):
        checkpoints.save(state_at(2))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_too_little_room_is_seen_before_writing(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(checkpoint_module.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError, match="disk is full"):
        Checkpoints(tmp_path).save(state_at(1))
    assert list(tmp_path.iterdir()) == []


def test_what_is_sharded_does_not_stay_where_there_is_no_room_for_the_rest(tmp_path, monkeypatch):
    def write_shares(tensors, path):
        (path / "shard.safetensors").write_bytes(bytes(5_000_000))

    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(checkpoint_module.shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(checkpoint_module.shares, "write_shares", write_shares)
    monkeypatch.setattr(TrainState, "is_sharded", True)
    with pytest.raises(InputError, match=r"this checkpoint needs 5\.\d MB. Nothing was written"):
        Checkpoints(tmp_path).save(state_at(1))
    assert list(tmp_path.iterdir()) == []


def test_other_errors_keep_their_own_words(tmp_path, monkeypatch):
    def denied(tensors, target):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(checkpoint_module, "save_file", denied)
    with pytest.raises(PermissionError):
        Checkpoints(tmp_path).save(state_at(1))


def test_the_last_k_are_kept_and_leftovers_of_a_kill_are_swept(tmp_path):
    (tmp_path / ".step-00000001.abc.tmp").mkdir()
    checkpoints = Checkpoints(tmp_path, keep_last=2)
    for step in (1, 2, 3):
        checkpoints.save(state_at(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]


def test_what_was_loaded_is_not_written_anew(tmp_path, monkeypatch):
    whole = run(tmp_path, config(keep_last=1), schedule="3").outcome
    monkeypatch.setattr(checkpoint_module, "atomic_directory", lambda path: pytest.fail(str(path)))
    # Killed after its last save, before older checkpoints were removed:
    kept = sorted(path.name for path in whole.checkpoint.parent.iterdir())
    shutil.copytree(whole.checkpoint, whole.checkpoint.with_name("step-00000001"))
    again = run(tmp_path, config(keep_last=1), schedule="3", resume=True).outcome
    assert (again.step, again.finished, again.checkpoint) == (8, True, whole.checkpoint)
    assert sorted(path.name for path in whole.checkpoint.parent.iterdir()) == kept


def refreshed(state, step):
    live = state.freshness._live
    live.renew(range(len(live)), step)


@pytest.mark.parametrize(("keep_last", "files"), [(1, "aaaab"), (2, "ababc"), (5, "ababc")])
def test_a_refreshed_index_is_linked_but_between_neighbours(tmp_path, keep_last, files):
    checkpoints = Checkpoints(tmp_path, keep_last=keep_last)
    state = state_at(1)
    refreshed(state, 1)
    inodes, kept = [], []
    for step in range(1, 6):
        state.step = step
        if step == 5:
            refreshed(state, 5)
        path = checkpoints.save(state) / "index.safetensors"
        kept.append(path.open("rb"))  # so that no number is given anew
        inodes.append(path.stat().st_ino)
    for file in kept:
        file.close()
    assert [inodes.index(inode) for inode in inodes] == [files.index(file) for file in files]


def test_a_damaged_index_leaves_the_checkpoint_before_it_whole(tmp_path, capsys):
    checkpoints = Checkpoints(tmp_path, keep_last=2)
    state = state_at(1)
    refreshed(state, 1)
    for step in (1, 2, 3, 4):
        state.step = step
        newest = checkpoints.save(state)
    with (newest / "index.safetensors").open("r+b") as file:  # in place: whatever is linked has it
        file.seek(-9, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-9, os.SEEK_END)
        file.write(bytes([byte ^ 1]))
    assert Checkpoints(tmp_path).load(state_at(9)).name == "step-00000003"
    assert "step-00000004/index.safetensors" in " ".join(capsys.readouterr().err.split())


def test_vectors_that_are_linked_are_not_asked_for(tmp_path, monkeypatch):
    """Of several processes they would be gathered, into process 0."""
    checkpoints = Checkpoints(tmp_path)
    state = state_at(1)
    refreshed(state, 1)
    checkpoints.save(state)
    state.step = 2
    checkpoints.save(state)
    live = state.freshness._live
    vectors = live.local.embeddings.clone()
    monkeypatch.setattr(live, "tensors", pytest.fail)
    state.step = 3
    path = checkpoints.save(state)
    assert torch.equal(load_file(path / "index.safetensors")["embeddings"], vectors)
    state.step = 4
    checkpoints.save(state, wait=False)
    checkpoints.finish()
    state = state_at(9)
    Checkpoints(tmp_path).load(state)
    assert torch.equal(state.freshness._live.local.embeddings, vectors)


def test_a_file_cut_short_is_refused(tmp_path):
    path = Checkpoints(tmp_path).save(state_at(1))
    (path / "model.safetensors").write_bytes(b"short")
    with pytest.raises(InputError, match=r"model.safetensors: missing or cut short"):
        Checkpoints(tmp_path).load(state_at(0))


def test_nothing_to_resume_and_something_to_overwrite(tmp_path):
    checkpoints = Checkpoints(tmp_path / "run")
    with pytest.raises(InputError, match="no checkpoint to resume from"):
        checkpoints.latest()
    checkpoints.require_none()
    checkpoints.save(state_at(4))
    with pytest.raises(InputError, match=r"up to step-00000004.*--resume"):
        checkpoints.require_none()


def test_another_format_is_refused(tmp_path):
    path = Checkpoints(tmp_path).save(state_at(1))
    facts = json.loads((path / "state.json").read_text()) | {"format_version": 99}
    (path / "state.json").write_text(json.dumps(facts))
    with pytest.raises(InputError, match="checkpoint format 99"):
        Checkpoints(tmp_path).load(state_at(0))


def test_changed_options_are_named(tmp_path, capsys):
    before = {"training": {"bsz": 2, "log_every": 1}, "objective": {"objective": "pdist"}}
    after = {"training": {"bsz": 4, "log_every": 9}, "objective": {"objective": "loop"}}
    Checkpoints(tmp_path, config=before).save(state_at(1))
    Checkpoints(tmp_path, config=after).load(state_at(0))
    shown = " ".join(capsys.readouterr().err.split())
    assert "training.bsz was 2 and is 4" in shown
    assert "objective.objective was 'pdist' and is 'loop'" in shown
    assert "log_every" not in shown


def test_tied_weights_are_saved_once_and_stay_tied():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(3, 2)
            self.head = nn.Linear(2, 3, bias=False)
            self.head.weight = self.embed.weight
            self.register_buffer("scale", torch.ones(1))

    first, second = Tied(), Tied()
    assert sorted(weights(first)) == ["embed.weight", "scale"]
    load_weights(second, weights(first), "reader")
    assert second.head.weight is second.embed.weight
    assert torch.equal(second.head.weight, first.embed.weight)


@pytest.mark.parametrize(
    ("own", "saved", "words"),
    [
        (nn.Linear(2, 2), nn.Linear(2, 2, bias=False), "'bias' is only in the model"),
        (nn.Linear(2, 2, bias=False), nn.Linear(2, 2), "'bias' is only in the checkpoint"),
        (nn.Linear(2, 2), nn.Linear(3, 2), r"'weight' has shape \[2, 3\] in the checkpoint"),
    ],
)
def test_another_model_is_refused(own, saved, words):
    with pytest.raises(InputError, match=words):
        load_weights(own, weights(saved), "reader")


def test_saving_does_not_disturb_the_run(tmp_path):
    rarely = run(tmp_path / "rarely", config())
    often = run(tmp_path / "often", config(save_every=1, keep_last=1))
    for name, tensor in all_tensors(rarely.state).items():
        assert torch.equal(tensor, all_tensors(often.state)[name]), name


def test_saving_in_the_background_writes_the_very_same(tmp_path):
    waited = run(tmp_path / "waited", config(save_every=1, keep_last=9))
    beside = run(tmp_path / "beside", config(save_every=1, keep_last=9, save_in_background=True))
    assert len(list((tmp_path / "beside").iterdir())) == 8
    for path in (tmp_path / "waited").iterdir():
        facts = [
            json.loads((tmp_path / which / path.name / "state.json").read_text())
            for which in ("waited", "beside")
        ]
        assert facts[0] == facts[1], path.name
    for name, tensor in all_tensors(waited.state).items():
        assert torch.equal(tensor, all_tensors(beside.state)[name]), name


def test_what_goes_wrong_in_the_background_is_raised_by_the_next_save(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    whole = checkpoint_module.save_file

    def full(tensors, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint_module, "save_file", full)
    checkpoints.save(state_at(1), wait=False)
    with pytest.raises(InputError, match="step-00000001: the disk is full"):
        checkpoints.finish()
    monkeypatch.setattr(checkpoint_module, "save_file", whole)
    checkpoints.save(state_at(2), wait=False)
    checkpoints.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]


def test_a_save_that_failed_in_the_background_does_not_cost_the_next(tmp_path, monkeypatch, capsys):
    checkpoints = Checkpoints(tmp_path)
    whole = checkpoint_module.save_file

    def full(tensors, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint_module, "save_file", full)
    checkpoints.save(state_at(1), wait=False)
    with pytest.raises(InputError, match="step-00000002: the disk is full"):
        checkpoints.save(state_at(2), wait=False)
    checkpoints.save(state_at(3), wait=False)
    checkpoints._writer.join()
    monkeypatch.setattr(checkpoint_module, "save_file", whole)
    checkpoints.save(state_at(4))
    assert "step-00000003: the disk is full" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000004"]


def test_looking_at_a_run_does_not_disturb_its_saves(tmp_path):
    under_way = tmp_path / ".step-00000001.abc.tmp"
    under_way.mkdir()
    with pytest.raises(InputError):
        Checkpoints(tmp_path).latest()
    assert under_way.is_dir()
