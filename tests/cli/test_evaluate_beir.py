from __future__ import annotations

import json

import pytest

from atlas_lm.cli import main
from tests.evaluation.test_beir import folder

pytest.importorskip("ir_measures")
pytest.importorskip("bm25s")


@pytest.fixture
def beir(tmp_path):
    return str(folder(tmp_path / "rivers"))


def test_words_and_a_retriever(beir, tiny, capsys):
    assert main(["evaluate", "--beir", beir, "--retriever", "bm25", "--json"]) == 0
    words = json.loads(capsys.readouterr().out)
    assert words["datasets"][0]["measures"]["R@100"]["mean"] == 0.75
    assert words["mean"]["R@100"] == 0.75
    retriever = str(tiny.drawn / "retriever")
    for _ in range(2):
        assert main(["evaluate", "--beir", beir, "--retriever", retriever, "--json"]) == 0
        captured = capsys.readouterr()
        assert json.loads(captured.out)["datasets"][0]["measures"]["R@100"]["mean"] == 0.75
    assert "Embedding" not in captured.err


def test_a_table_for_people(beir, capsys):
    assert main(["evaluate", "--beir", beir, beir, "--retriever", "bm25"]) == 0
    out = capsys.readouterr().out
    assert "nDCG@10" in out
    assert "mean" in out


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--beir", "none", "--retriever", "bm25"], "no such file"),
        (["--beir", "none", "--data", "x.jsonl"], "leave --data"),
        (["--retriever", "bm25"], "give --data FILE"),
        (["--beir", "none", "--beir-measures", "x"], "measure 'x' is unknown"),
        (["--beir", "none", "--beir-measures", ","], "name one, such as nDCG@10"),
        (["--beir", "none", "--report", "r", "--limit", "3"], "leave --limit, --report out"),
        (["--beir", "BEIR"], "give --model DIR or --retriever NAME"),
    ],
)
def test_wrong_words(beir, options, told, capsys):
    arguments = [beir if option == "BEIR" else option for option in options]
    assert main(["evaluate", *arguments]) == 2
    assert told in capsys.readouterr().err
