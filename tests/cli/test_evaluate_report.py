from __future__ import annotations

import json

import pytest

from atlas_lm.cli import common, main


def evaluate(tiny, pair, *words) -> int:
    data = ["--data", str(tiny.world / "test.jsonl"), "--limit", "5"]
    return main(["evaluate", *pair, "--index", str(tiny.index), *data, *map(str, words)])


def test_a_report_is_written_and_printed(tiny, pair, tmp_path, capsys):
    page = tmp_path / "report.html"
    predictions = tmp_path / "predictions.jsonl"
    words = ("--report", page, "--predictions", predictions, "--json")
    assert evaluate(tiny, pair, *words) == 0
    printed = json.loads(capsys.readouterr().out)
    assert set(printed["conditions"]) == {"closed", "open", "oracle", "random"}
    assert printed["questions"] == 5
    assert printed["conditions"]["oracle"]["gold_recall_at_1"]["mean"] == 1.0
    assert set(printed["open_against"]) == {"closed", "oracle", "random"}
    assert page.read_text("utf-8").startswith("<!doctype html>")
    assert len(predictions.read_text("utf-8").splitlines()) == 5


def test_answers_that_are_cut_off_are_counted(tiny, pair, capsys):
    assert evaluate(tiny, pair, "--set", "generation.max_new_tokens=1") == 0
    told = "5 of 5 answers were cut off at generation.max_new_tokens=1;"
    assert told in " ".join(capsys.readouterr().err.split())


def test_conditions_are_chosen_and_the_open_book_is_always_there(tiny, pair, tmp_path, capsys):
    page = tmp_path / "report.html"
    assert evaluate(tiny, pair, "--report", page, "--conditions", "closed", "--json") == 0
    assert list(json.loads(capsys.readouterr().out)["conditions"]) == ["closed", "open"]


def test_an_unknown_condition_is_named(tiny, pair, tmp_path, capsys):
    page = tmp_path / "report.html"
    assert evaluate(tiny, pair, "--report", page, "--conditions", "orcale") == 2
    assert "oracle" in capsys.readouterr().err


def test_a_report_without_answers_is_refused(tiny, pair, tmp_path, capsys):
    page = tmp_path / "report.html"
    assert evaluate(tiny, pair, "--report", page, "--retrieval-only") == 2
    assert "leave --retrieval-only out" in capsys.readouterr().err
    assert not page.exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--limit", "-1"], "--limit -1: give at least 1"),
        (["--bsz", "0"], "--bsz 0: give at least 1"),
        (["--recall-at", "\u00b2"], "write depths as 1,5,20"),
        (["--report", "."], "--report .: is a directory; name a file"),
        (["--retrieval-only", "--passages-from", "none"], "leave --passages-from none out"),
        (["--set", "generation.max_new_tokens=0"], "generation.max_new_tokens=0: give 1 or more"),
        (["--set", "generation.min_new_tokens=99"], "generation.min_new_tokens=99: give 0"),
    ],
)
def test_numbers_that_mean_nothing(tiny, pair, words, told, capsys):
    assert evaluate(tiny, pair, *words) == 2
    assert told in capsys.readouterr().err


def test_retrieval_alone_needs_no_reader(tiny, pair, capsys, monkeypatch):
    words = ["--retrieval-only", "--n-context", "3", "--json"]
    assert evaluate(tiny, pair, *words) == 0
    both = json.loads(capsys.readouterr().out)
    monkeypatch.setattr(common, "open_reader", lambda *_: pytest.fail("a reader is opened"))
    assert evaluate(tiny, pair[2:], *words) == 0
    assert json.loads(capsys.readouterr().out) == both
    assert both["recall_at_5"]["n"] == 5
    assert evaluate(tiny, pair[2:], "--json") == 2
    assert "--reader NAME" in capsys.readouterr().err


def test_settings_of_an_encoder_that_is_not_opened_are_refused(tiny, capsys):
    data = ("--data", str(tiny.world / "test.jsonl"), "--passages-from", "none")
    words = ["evaluate", "--reader", str(tiny.drawn / "reader"), *data, "--pooling", "cls"]
    assert main(words) == 2
    assert "--pooling: has no effect without --retriever" in capsys.readouterr().err
