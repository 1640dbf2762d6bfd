"""Text that is not ours is shown as it is, whatever brackets it has."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from atlas_lm.cli import answer, main, retrieve
from atlas_lm.evaluation import Metrics
from atlas_lm.evaluation.bootstrap import Estimate
from atlas_lm.evaluation.groups import groups_table
from atlas_lm.evaluation.report import metrics_table
from atlas_lm.model import Answer, Source
from atlas_lm.runtime.logs import console
from atlas_lm.types import Example, Passage, Retrieved

ODD = Passage("[/i]7", "see [/b] here[citation needed] :smile:", title="[red]T")


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


def test_passages_behind_an_answer(capsys, monkeypatch):
    found = Answer("x", -1.0, (Source(ODD, 1.0, 0.5),))
    asked = SimpleNamespace(answer=lambda question: found)
    monkeypatch.setattr(answer, "open_model", lambda args: asked)
    assert main(["answer", "[/INST] who?"]) == 0
    shown = capsys.readouterr().out
    assert ODD.text in shown
    assert "[red]T ([/i]7)" in shown


def test_questions_and_passages_retrieved(capsys, monkeypatch):
    question = Example("1", "question: who? answer: <extra_id_0>", "x", sought="[/INST] who?")
    found = Retrieved(((ODD,),), torch.ones(1, 1), torch.zeros(1, 1, dtype=torch.int64))
    index = SimpleNamespace(way=lambda bsz: "[/somehow]")
    atlas = SimpleNamespace(index=index, retrieve=lambda batch, topk: found)
    monkeypatch.setattr(retrieve, "open_for_retrieval", lambda args: atlas)
    monkeypatch.setattr(retrieve, "load_data", lambda *_, **__: [question])
    assert main(["retrieve", "--index", "i", "--data", "d"]) == 0
    shown = capsys.readouterr().out
    assert "[/INST] who?" in shown
    assert "extra_id_0" not in shown  # the reader's wording is not what the retriever is asked
    assert "[/i]7  [red]T" in shown


def test_what_a_directory_holds(tmp_path, capsys):
    (tmp_path / "[b]run").mkdir()
    saved = {"task": {"query_template": "[/INST]{question}"}}
    (tmp_path / "[b]run" / "atlas.json").write_text(json.dumps(saved))
    assert main(["inspect", str(tmp_path / "[b]run")]) == 0
    shown = capsys.readouterr().out
    assert "[/INST]{question}" in shown
    assert "[b]run: model" in shown


def test_groups_and_titles():
    metrics = Metrics({"exact_match": Estimate(0.25, 0.125, 0.375, 40)})
    with console.capture() as capture:
        console.print(groups_table({"[/x]": metrics}, "[sic]"))
        console.print(metrics_table(metrics, title="data/[/odd].jsonl"))
    assert "[/x]" in capture.get()
    assert "[sic]" in capture.get()
    assert "data/[/odd].jsonl" in capture.get()
