"""doctor, export, inspect run and what train says when it is stopped or refused."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSeq2SeqLM

from atlas_lm import Atlas
from atlas_lm.cli import joint, main, train
from atlas_lm.cli.doctor_checks import EXTRAS
from atlas_lm.cli.export import Opened, _last_measured, open_source
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.intact import write_facts
from atlas_lm.training.lock import run_lock
from tests.cli.running import ROOT, run_overrides, said


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory) -> Path:
    """Four steps, evaluated at each; the best by exact match is kept."""
    out = tmp_path_factory.mktemp("runs") / "run"
    words = ["train", "tinyworld", "--out", out, *run_overrides(tiny), "training.total_steps=4"]
    words += [f"data.validation={tiny.world}/test.jsonl", "data.validation_limit=4"]
    words += ["training.evaluate_every=1", "training.best_metric=recall_at_5"]
    words += ["training.log_every=1", "training.keep_last=1"]
    assert main(list(map(str, words))) == 0
    return out


def test_the_doctor_finds_nothing_broken_and_names_what_is_absent(capsys, monkeypatch):
    report = said(capsys, "doctor")
    assert report["well"]
    states = {check["name"]: check["state"] for check in report["checks"]}
    assert states["torch"] == states["cpu"] == states["package:atlas-lm/contriever-nano"] == "fine"
    assert set(EXTRAS) <= set(states)
    monkeypatch.setitem(EXTRAS, "faiss", ("no_such_module",))
    absent = {check["name"]: check for check in said(capsys, "doctor")["checks"]}["faiss"]
    assert absent["state"] == "absent"
    assert absent["remedy"] == "pip install 'atlas-lm[faiss]'"
    assert main(["doctor"]) == 0
    assert "all is well" in capsys.readouterr().out


def test_extras_are_those_of_the_package():
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(EXTRAS) <= set(extras["optional-dependencies"])


def test_the_doctor_says_which_modules_learn(tiny, capsys):
    words = ["doctor", "--gradients", "tinyworld", *run_overrides(tiny)]
    report = said(capsys, *words)
    assert report["halves"] == {
        "reader": {"should_learn": True, "learns": True},
        "retriever": {"should_learn": True, "learns": True},
    }
    layers = {entry["module"]: entry for entry in report["modules"] if entry["half"] == "reader"}
    assert layers["model.encoder.block.0"]["share"] > 0.5
    assert layers["model.encoder.block.0"]["update_norm"] > 0
    words_of = "towers.query.embeddings.word_embeddings"
    (embeddings,) = (entry for entry in report["modules"] if entry["module"] == words_of)
    assert 0 < embeddings["share"] < 1
    assert main(list(map(str, words))) == 0
    shown = capsys.readouterr().out
    assert "retriever: learns" in shown


def test_the_doctor_flags_a_half_that_does_not_learn(tiny, capsys):
    words = ["doctor", "--gradients", "tinyworld", *run_overrides(tiny)]
    assert main([*map(str, words), "objective.temperature_score=1e30", "--json"]) == 2
    report = json.loads(capsys.readouterr().out)
    assert report["halves"]["retriever"] == {"should_learn": True, "learns": False}
    frozen = [*map(str, words), "training.freeze_retriever_steps=80", "--json"]
    frozen.remove("training.freeze_retriever_steps=1")
    assert main(frozen) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["halves"]["retriever"] == {"should_learn": False, "learns": False}


def test_overrides_without_a_recipe_are_refused(capsys):
    assert main(["doctor", "training.bsz=3"]) == 2
    assert "--gradients RECIPE" in capsys.readouterr().err


@pytest.mark.parametrize("source", ["run", "best", "checkpoint", "model"])
def test_anything_trained_can_be_exported(trained, tmp_path, capsys, source):
    place = {
        "run": trained,
        "best": trained,
        "checkpoint": sorted((trained / "checkpoints").iterdir())[-1],
        "model": trained / "model",
    }[source]
    best = ["--best"] if source == "best" else []
    out = tmp_path / "export"
    words = ["export", place, "--out", out, "--license", "apache-2.0", *best]
    result = said(capsys, *words)
    recipe = [] if source == "model" else ["recipe.toml"]
    assert result["files"] == ["README.md", "atlas.json", "reader", *recipe, "retriever"]
    front, card = (out / "README.md").read_text().removeprefix("---\n").split("\n---\n", 1)
    assert yaml.safe_load(front)["library_name"] == "atlas-lm"
    assert yaml.safe_load(front)["license"] == "apache-2.0"
    assert "# export" in card
    assert str(trained) not in card
    assert "pytest-of" not in card
    if source != "model":
        assert "held-out questions" in card
    AutoModelForSeq2SeqLM.from_pretrained(out / "reader")
    atlas = Atlas.from_pretrained(out)
    if source == "checkpoint":
        saved = load_file(place / "model.safetensors")
        for name, tensor in atlas.reader.state_dict().items():
            if f"reader.{name}" in saved:
                assert torch.equal(tensor, saved[f"reader.{name}"]), name
    assert main([*map(str, words)]) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_run_that_went_on_is_exported_as_it_is_now(trained, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(trained, out)
    recipe = out / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("total_steps = 4", "total_steps = 8"))
    assert open_source(out).step == 4
    newer = out / "checkpoints" / "step-00000006"
    shutil.copytree(out / "checkpoints" / "step-00000004", newer)
    state = json.loads((newer / "state.json").read_text())
    weights = load_file(newer / "model.safetensors")
    name = next(name for name in weights if name.startswith("reader."))
    save_file(weights | {name: weights[name] + 1}, newer / "model.safetensors")
    state.pop("sha256")
    write_facts(newer, {**state, "step": 6}, {})
    opened = open_source(out)
    assert opened.step == 6
    exported = opened.atlas.reader.state_dict()[name.removeprefix("reader.")]
    assert torch.equal(exported, weights[name] + 1)


def test_what_adapters_have_learnt_is_in_the_export_of_their_checkpoint(tiny, tmp_path, capsys):
    pytest.importorskip("peft")
    out, export = tmp_path / "run", tmp_path / "export"
    words = ["train", "tinyworld", "--out", out, *run_overrides(tiny), "training.total_steps=2"]
    words += ["reader.lora.rank=2", "training.reader.lr=0.01", "training.reader.warmup_steps=0"]
    said(capsys, *words)
    said(capsys, "export", out / "checkpoints" / "step-00000002", "--out", export)
    exported = Atlas.from_pretrained(export).reader.state_dict()
    learnt = Atlas.from_pretrained(out / "model").reader.state_dict()
    assert exported.keys() == learnt.keys()
    assert all(torch.equal(value, learnt[name]) for name, value in exported.items())
    drawn = AutoModelForSeq2SeqLM.from_pretrained(tiny.drawn / "reader").state_dict()
    assert any(not torch.equal(exported[f"model.{name}"], drawn[name]) for name in drawn)


@pytest.mark.parametrize(
    ("kind", "said"), [("supervised", "run/retriever"), ("nano", "one of those: .*run/words")]
)
def test_runs_without_a_reader_or_of_several_runs_are_refused_by_name(tmp_path, kind, said):
    run = tmp_path / "run"
    (run / "words" / "checkpoints").mkdir(parents=True)
    (run / "recipe.toml").write_text(f'kind = "{kind}"')
    with pytest.raises(InputError, match=f"{kind}.*{said}"):
        open_source(run)
    (run / "checkpoints" / "step-00000002").mkdir(parents=True)
    state = run / "checkpoints" / "step-00000002" / "state.json"
    state.write_text(json.dumps({"step": 2, "config": {"kind": kind, "fit": {}}}))
    with pytest.raises(InputError, match=f"{kind}.*{said}"):
        open_source(state.parent)


def test_a_log_cut_short_by_a_kill_does_not_keep_a_model_from_its_export(tmp_path):
    measured = '"exact_match": 0.5, "kilt_f1": 0.1, "recall_at_5": 0.7'
    log = f'{{"step": 2, "reader_loss": 3.0, {measured}}}\n{{"step": 4, "exact_ma'
    (tmp_path / "metrics.jsonl").write_text(log)
    killed = Opened(atlas=None, step=4, run=tmp_path)
    assert _last_measured(killed) == json.loads(f"{{{measured}}}")


def test_what_cannot_be_exported_is_said(trained, tmp_path, capsys):
    assert main(["export", str(tmp_path), "--out", str(tmp_path / "x")]) == 2
    assert "nor a model (atlas.json)" in capsys.readouterr().err


def test_a_run_is_drawn_and_gets_a_card_that_can_be_written_again(trained, capsys):
    assert main(["inspect", "run", str(trained)]) == 0
    shown = capsys.readouterr()
    assert "Reader loss" in shown.out
    assert "where the time went" in shown.out
    assert "best by recall_at_5" in shown.out
    card = trained / "run_card.html"
    assert "Reader loss" in card.read_text()
    card.write_text("<html>of the quickstart</html>")
    assert main(["inspect", "run", str(trained)]) == 0
    assert card.read_text() == "<html>of the quickstart</html>"


def test_inspect_says_what_is_no_run(trained, tmp_path, capsys):
    assert main(["inspect", "run", str(trained / "model")]) == 2
    assert "is no run but a model" in capsys.readouterr().err
    assert main(["inspect", "cat", str(trained)]) == 2
    assert "one of run, checkpoint" in capsys.readouterr().err


def test_phases_are_logged_and_summed_up(trained):
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    shares = [row for row in rows if "share_encode" in row]
    assert len(shares) == 4
    for row in shares:
        values = [value for name, value in row.items() if name.startswith("share_")]
        assert sum(values) == pytest.approx(1, abs=1e-3)
    phases = json.loads((trained / "phases.json").read_text())["phases"]
    wanted = {"data", "retrieve", "encode", "score", "backward", "update", "refresh", "save"}
    assert wanted | {"evaluate", "other"} <= set(phases)
    assert phases["data"]["share"] < 0.1


def test_metrics_go_to_trackers_and_a_profile_is_written(tiny, tmp_path, capsys):
    pytest.importorskip("tensorboard")
    out = tmp_path / "run"
    words = ["train", "tinyworld", "--out", out, *run_overrides(tiny), "training.total_steps=3"]
    assert said(capsys, *words, "--track", "tensorboard", "--profile", 1)["finished"]
    assert list((out / "tensorboard").iterdir())
    trace = json.loads((out / "profile" / "step-2-2.json").read_text())
    names = {event.get("name") for event in trace["traceEvents"]}
    assert {"phase retrieve", "phase encode", "phase score", "phase backward"} <= names


def test_a_second_run_in_a_directory_is_refused_before_it_builds_an_index(
    trained, tiny, capsys, monkeypatch
):
    monkeypatch.setattr(train, "open_or_build_index", lambda *_: pytest.fail("it is at work"))
    with run_lock(trained):
        assert main(["train", f"{trained}/recipe.toml", "--out", str(trained), "--resume"]) == 2
    assert "another run is at work" in capsys.readouterr().err


@pytest.mark.slow
def test_a_preempted_run_saves_ends_well_and_says_how_to_go_on(tiny, tmp_path):
    out = tmp_path / "run"
    words = ["train", "tinyworld", "--out", out, *run_overrides(tiny), "training.total_steps=5000"]
    command = [sys.executable, "-m", "atlas_lm", *map(str, words), "training.log_every=1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    log = out / "metrics.jsonl"
    while not (log.is_file() and log.read_text().count("\n") >= 2) and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, complained = process.communicate(timeout=60)
    assert process.returncode == 0, complained
    assert f"go on with: atlas-lm train {out}/recipe.toml --out {out} --resume" in complained
    last = json.loads(log.read_text().splitlines()[-1])["step"]
    assert (out / "checkpoints" / f"step-{last:08d}").is_dir()


def test_sigterm_while_the_index_is_built_or_the_model_saved_ends_well_too(
    tiny, tmp_path, capsys, monkeypatch
):
    out = tmp_path / "my run"
    words = ["train", "tinyworld", "--out", out, *run_overrides(tiny), "training.total_steps=2"]
    words = list(map(str, words))
    plain = joint.build_index
    struck = []

    def strike(*_, **__):
        struck.append(signal.getsignal(signal.SIGTERM))
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(joint, "build_index", strike)
    assert main(words) == 0
    again = capsys.readouterr().err.split("go on with: ")[1].splitlines()[0]
    assert "--resume" not in again
    monkeypatch.setattr(joint, "build_index", plain)
    monkeypatch.setattr(joint, "save_model", strike)
    assert main(shlex.split(again)[1:]) == 0
    again = capsys.readouterr().err.split("go on with: ")[1].splitlines()[0]
    assert shlex.split(again)[2:] == [f"{out}/recipe.toml", "--out", str(out), "--resume"]
    assert not (out / "model").exists()
    monkeypatch.undo()
    assert main(shlex.split(again)[1:]) == 0
    assert (out / "model").is_dir()
    assert len(struck) == 2
    assert signal.getsignal(signal.SIGTERM) == before
