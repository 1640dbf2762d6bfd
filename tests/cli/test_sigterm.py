"""SIGTERM where there is no step to finish: exit code 0, and the command that goes on is right."""

from __future__ import annotations

import os
import shlex
import signal
import time
from pathlib import Path

import pytest

from atlas_lm.cli import main, nano, pretrain, quickstart
from tests.cli.test_nano import HEAD, STAGE
from tests.cli.test_pretrain import FIT, LENGTHS, PIECES, corpora
from tests.parity.golden import write_bert
from tests.retriever.contrastive_worker import write_corpus


def struck(*_: object, **__: object) -> None:
    """Receive SIGTERM, as a scheduler sends it."""
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)


def go_on(capsys) -> list[str]:
    """Return the words, after the program's name, of the command that was named last."""
    return shlex.split(capsys.readouterr().err.split("go on with: ")[-1].splitlines()[0])[1:]


def test_a_retriever_being_opened_or_saved(tmp_path, capsys, monkeypatch):
    bert = write_bert(tmp_path / "bert")
    corpus = write_corpus(tmp_path / "wiki.jsonl", 30)
    out = tmp_path / "my run"
    options = [*FIT, *LENGTHS, *PIECES, f'encoder.path="{bert}"', corpora(corpus)]
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "prepared", struck)
        assert main(["train", "contriever", *options, "--out", str(out)]) == 0
    again = go_on(capsys)
    assert "--resume" not in again
    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "write_json", struck)
        assert main(again) == 0
    again = go_on(capsys)
    assert again == ["train", f"{out}/recipe.toml", "--out", str(out), "--resume"]
    assert main(again) == 0
    assert (out / "retriever" / "model.safetensors").is_file()
    assert signal.getsignal(signal.SIGTERM) == before


def test_stages_before_the_first_is_trained(tmp_path, capsys, monkeypatch):
    write_corpus(tmp_path / "p.jsonl", 12)
    places = {"passages": tmp_path / "p.jsonl", "train": "t.jsonl", "validation": "v.jsonl"}
    stage = STAGE.format(name="copy", data="lookups", review=0.0, source="file")
    recipe = tmp_path / "nano.toml"
    recipe.write_text(HEAD.format(**places) + stage)
    monkeypatch.setattr(nano, "build_index", struck)
    words = ["train", str(recipe), "--out", str(tmp_path / "run")]
    assert main(words) == 0
    resumed = ["train", f"{tmp_path}/run/recipe.toml", "--out", f"{tmp_path}/run", "--resume"]
    assert go_on(capsys) == resumed


@pytest.mark.parametrize("begun", [False, True])
def test_the_quickstart(tmp_path, capsys, monkeypatch, begun):
    monkeypatch.chdir(tmp_path)
    out = Path("runs/mine")

    def strike(*_: object) -> None:
        if begun:
            (out / "checkpoints" / "step-00000008").mkdir(parents=True)
        struck()

    monkeypatch.setattr(quickstart, "prepare_minipedia", strike)
    words = ["quickstart", "--shuffled-signals", "--answers", "3", "--out", str(out)]
    assert main([*words, "training.bsz=2"]) == 0
    if begun:
        assert go_on(capsys) == ["train", f"{out}/recipe.toml", "--out", str(out), "--resume"]
    else:
        again = go_on(capsys)
        assert set(again) == {*words, "training.bsz=2", "--force"}
        assert main(again) == 0  # struck again: its options are as they were
        assert go_on(capsys) == again
