import sys
import types
from pathlib import Path

import pytest

from atlas_lm.runtime.errors import InputError
from atlas_lm.training.run_log import RunLog
from atlas_lm.training.trackers import TRACKERS, TrackedRun, open_trackers


def run_of(tmp_path, **values):
    return TrackedRun(out=tmp_path / "run", config={"training": {"bsz": 2}}, **values)


class Fake:
    """Stands for the libraries' modules: remembers what it was told."""

    def __init__(self):
        self.told = []

    def __getattr__(self, name):
        def tell(*args, **options):
            self.told.append((name, args, options))
            return self

        return tell


@pytest.mark.parametrize(
    ("name", "module", "remedy"),
    [
        ("tensorboard", "torch.utils.tensorboard", r"pip install 'atlas-lm\[tracking\]'"),
        ("wandb", "wandb", "pip install wandb"),
        ("trackio", "trackio", "pip install trackio"),
    ],
)
def test_a_library_that_is_not_installed_is_named_with_its_remedy(
    tmp_path, monkeypatch, name, module, remedy
):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=remedy):
        open_trackers([name], run_of(tmp_path))


def test_a_tracker_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(InputError, match="did you mean 'wandb'"):
        open_trackers(["wandbb"], run_of(tmp_path))
    assert list(TRACKERS) == ["tensorboard", "wandb", "trackio"]


def test_every_tracker_receives_every_line_and_is_closed(tmp_path, monkeypatch):
    wandb, trackio = Fake(), Fake()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, "trackio", trackio)
    run = run_of(tmp_path, title="a run")
    trackers = open_trackers(["wandb", "trackio", "wandb"], run)
    assert len(trackers) == 2
    with RunLog(tmp_path / "metrics.jsonl", total_steps=4, trackers=trackers) as log:
        log(1, {"reader_loss": 2.0, "kl": float("nan")})
    assert [name for name, _, _ in wandb.told] == ["init", "define_metric", "log", "finish"]
    assert wandb.told[0][2]["id"] == run.id
    assert wandb.told[0][2]["config"] == {"training": {"bsz": 2}}
    assert wandb.told[2][1][0]["step"] == 1
    assert [name for name, _, _ in trackio.told] == ["init", "log", "finish"]
    assert trackio.told[1][1:] == (({"reader_loss": 2.0},), {"step": 1})


def test_the_same_directory_is_the_same_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert TrackedRun(out=Path("run")).id == TrackedRun(out=tmp_path / "run").id
    assert TrackedRun(out=tmp_path / "other").id != TrackedRun(out=tmp_path / "run").id
    assert TrackedRun(out=tmp_path / "run").name == "run"


def test_tensorboard_purges_what_came_after_the_resumed_step(tmp_path, monkeypatch):
    made = {}

    class Writer(Fake):
        def __init__(self, path, **options):
            super().__init__()
            made.update(path=path, **options)

    monkeypatch.setitem(
        sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=Writer)
    )
    open_trackers(["tensorboard"], run_of(tmp_path, first_step=4))
    assert made == {"path": str(tmp_path / "run" / "tensorboard"), "purge_step": 5}
