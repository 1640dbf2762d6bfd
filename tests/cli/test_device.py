import argparse

import pytest
import torch

from atlas_lm import Atlas
from atlas_lm.cli import main
from atlas_lm.cli.device import device
from atlas_lm.runtime.errors import InputError


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    "words",
    [
        ["train", "tinyworld", "--out", "x"],
        ["doctor"],
        ["index", "build"],
        ["answer", "--reader", "x"],
    ],
)
def test_a_device_that_is_not_there_is_an_error_and_no_traceback(words, capsys):
    with pytest.raises(SystemExit) as end:
        main([*words, "--device", "cuda"])
    assert end.value.code == 2
    assert "PyTorch sees 0 GPUs" in capsys.readouterr().err


def test_devices_are_those_that_pytorch_sees(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [device(name) for name in ("cpu", "cuda", "cuda:1")] == ["cpu", "cuda", "cuda:1"]
    with pytest.raises(argparse.ArgumentTypeError, match="sees 2 GPUs"):
        device("cuda:2")
    with pytest.raises(argparse.ArgumentTypeError, match="'gpu' is no device"):
        device("gpu")


@pytest.mark.parametrize("asked", ["cpu", "cuda"])
def test_the_model_goes_to_its_device_and_the_index_to_its_own(
    asked, monkeypatch, pair, tiny, capsys
):
    moved = []

    def open_index(self, path, *, device="cpu"):
        raise InputError(f"the index goes to {device}")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, device: moved.append(device) or self)
    monkeypatch.setattr(Atlas, "open_index", open_index)
    place = [] if asked == "cpu" else ["--index-device", asked]
    words = ["answer", *pair, "--index", str(tiny.index), "--device", "cuda", *place, "Who?"]
    assert main(words) == 2
    assert capsys.readouterr().err == f"atlas-lm: the index goes to {asked}\n"
    assert set(moved) == {"cuda"}
