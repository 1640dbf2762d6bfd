"""Every verb once, as a user would type it, on a made-up world with random weights."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModel, AutoModelForSeq2SeqLM

from atlas_lm import Atlas
from atlas_lm.cli import SUMMARY, VERBS, main
from tests.cli.running import ROOT, run_overrides, said


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory) -> Path:
    """A run of three steps of joint training with its own index, trained through the CLI."""
    out = tmp_path_factory.mktemp("runs") / "run"
    words = ["train", "tinyworld", "--out", out, *run_overrides(tiny), "training.total_steps=3"]
    assert main(list(map(str, words))) == 0
    return out


def test_index_info_shows_what_the_vectors_depend_on(tiny, capsys):
    info = said(capsys, "index", "info", tiny.index)
    assert info["kind"] == "flat"
    assert set(info["fingerprint"]) >= {"encoder", "template", "pooling", "max_length", "corpus"}
    assert "vectors, in chunks, on cpu" in info["way"]["1 queries"]


def test_retrieve_prints_ids_and_scores(tiny, capsys):
    found = said(
        capsys,
        *("retrieve", "--retriever", tiny.drawn / "retriever", "--index", tiny.index),
        *("--data", tiny.world / "test.jsonl", "--topk", 3, "--limit", 2),
    )
    assert len(found["examples"]) == 2
    assert "vectors, in chunks, on cpu" in found["way"]
    passages = found["examples"][0]["passages"]
    assert [set(passage) for passage in passages] == [{"id", "score"}] * 3
    assert passages[0]["score"] >= passages[1]["score"] >= passages[2]["score"]


def test_evaluate_prints_metrics_with_intervals_and_writes_predictions(
    tiny, pair, tmp_path, capsys
):
    predictions = tmp_path / "predictions.jsonl"
    metrics = said(
        capsys,
        *("evaluate", *pair, "--index", tiny.index, "--data", tiny.world / "test.jsonl"),
        *("--limit", 4, "--predictions", predictions),
    )
    assert set(metrics["exact_match"]) == {"mean", "low", "high", "n"}
    assert {"recall_at_1", "recall_at_5", "mrr", "f1"} <= set(metrics)
    lines = [json.loads(line) for line in predictions.read_text().splitlines()]
    assert len(lines) == 4
    assert {"id", "answer", "log_prob", "passages"} <= set(lines[0])


def test_evaluate_measures_each_group_of_a_field_too(tiny, tmp_path, capsys):
    rows = [json.loads(line) for line in (tiny.world / "test.jsonl").read_text().splitlines()[:5]]
    data = tmp_path / "grouped.jsonl"
    data.write_text("".join(json.dumps(r | {"of": "ab"[n > 1]}) + "\n" for n, r in enumerate(rows)))
    closed = ("evaluate", "--reader", tiny.drawn / "reader", "--passages-from", "none")
    metrics = said(capsys, *closed, "--data", data, "--by", "of")
    groups = metrics["by"]["of"]
    assert {value: group["exact_match"]["n"] for value, group in groups.items()} == {"a": 2, "b": 3}
    whole = sum(group["f1"]["mean"] * group["f1"]["n"] for group in groups.values()) / 5
    assert metrics["f1"]["mean"] == pytest.approx(whole)
    asked = [str(each) for each in (*closed, "--data", data)]
    assert main([*asked, "--by", "off"]) == 2
    assert "cannot group by 'off'" in (shown := capsys.readouterr().err)
    assert "did you mean 'of'" in shown
    assert main([*asked, "--by", "of"]) == 0
    assert "mean of groups" in capsys.readouterr().out


def test_evaluate_closed_book_needs_no_retriever(tiny, capsys):
    metrics = said(
        capsys,
        *("evaluate", "--reader", tiny.drawn / "reader", "--passages-from", "none"),
        *("--data", tiny.world / "test.jsonl", "--limit", 2),
    )
    assert "exact_match" in metrics
    assert "recall_at_1" not in metrics


def test_answer_closed_book_has_no_sources(tiny, capsys):
    closed = ("answer", "--reader", tiny.drawn / "reader", "--passages-from", "none")
    assert said(capsys, *closed, "Who is it?")["passages"] == []
    assert main([*map(str, closed), "Who is it?"]) == 0


def test_a_trained_run_answers_scores_and_is_inspected(trained, tiny, capsys):
    model = ["--model", trained / "model", "--index", trained / "index"]
    answer = said(capsys, "answer", *model, "--n-context", 4, "who ?")
    assert {"question", "answer", "log_prob", "passages"} == set(answer)
    shares = [passage["attention_share"] for passage in answer["passages"]]
    assert len(shares) == 4
    assert sum(shares) == pytest.approx(1, abs=1e-5)

    data = ["--data", tiny.world / "test.jsonl", "--limit", 3]
    lab = said(capsys, "score", *model, *data, "--n-context", 3, "--objective", "all")
    example = lab["examples"][0]
    assert set(example["gold_score"]) == {"pdist", "loop", "adist", "emdr2"}
    assert set(example["retriever_loss"]) == set(example["gold_score"])
    assert [len(scores) for scores in example["gold_score"].values()] == [3] * 4
    per_token = [score / example["target_tokens"] for score in example["gold_score"]["emdr2"]]
    assert per_token == pytest.approx(example["gold_score"]["pdist"], rel=1e-4)
    assert set(lab["agreement"]) == {"between", "answer_bearing"}

    assert said(capsys, "inspect", trained)["kind"] == "run"
    assert said(capsys, "inspect", trained / "model")["kind"] == "model"
    checkpoint = next((trained / "checkpoints").iterdir())
    assert said(capsys, "inspect", checkpoint)["kind"] == "checkpoint"


def test_both_halves_open_with_plain_transformers_and_the_model_in_python(trained, tmp_path):
    AutoModelForSeq2SeqLM.from_pretrained(trained / "model" / "reader")
    retriever = trained / "model" / "retriever"
    towers = [retriever] if (retriever / "config.json").is_file() else list(retriever.iterdir())
    for tower in towers:
        if tower.is_dir():
            AutoModel.from_pretrained(tower)
    atlas = Atlas.from_pretrained(trained / "model", index=trained / "index")
    first = atlas.answer("who ?")
    atlas.save_pretrained(tmp_path / "copy")
    again = Atlas.from_pretrained(tmp_path / "copy", index=trained / "index").answer("who ?")
    assert (again.text, again.log_prob) == (first.text, first.log_prob)
    assert len(atlas.retrieve("who ?", 2).passages[0]) == 2


def test_a_finished_run_is_not_started_over_but_can_be_resumed(trained, tiny, capsys):
    words = ["train", "tinyworld", "--out", trained, *run_overrides(tiny)]
    assert main(list(map(str, [*words, "training.total_steps=3"]))) == 2
    assert "--resume" in capsys.readouterr().err
    result = said(capsys, "train", trained / "recipe.toml", "--out", trained, "--resume")
    assert result["finished"]
    assert result["step"] == 3


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    assert f"atlas-lm {verb}" in capsys.readouterr().out.split("example:")[1]
    assert verb in SUMMARY


def test_the_overview_loads_no_torch():
    code = "import sys; from atlas_lm.cli import main; main(['--help']); "
    code += "sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "quickstart" in done.stdout


def test_the_readme_names_only_verbs_that_exist():
    readme = (ROOT / "README.md").read_text("utf-8")
    for verb in re.findall(r"^(?:\.venv/bin/)?atlas-lm ([a-z]+)", readme, re.MULTILINE):
        assert verb in VERBS
