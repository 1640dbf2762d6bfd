from __future__ import annotations

import json

import pytest

from atlas_lm.cli import main
from atlas_lm.cli.prepare_official import DATASETS
from tests.data.official_files import jsonl
from tests.data.test_fever import OPEN, SUPPORTED, claims
from tests.data.wikipedia_dump import dump


@pytest.mark.parametrize("what", [*DATASETS, "wikipedia", "passages"])
def test_help_has_an_example(what, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["prepare", what, "--help"])
    assert f"example:\n  atlas-lm prepare {what} " in capsys.readouterr().out


def test_json_is_alone_on_stdout_and_people_get_a_table(tmp_path, capsys):
    train = jsonl(tmp_path / "train.jsonl", *claims(30))
    words = ["prepare", "fever", train, "--out", str(tmp_path / "out"), "--shots", "3,6"]
    assert main([*words, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["directory"] == str(tmp_path / "out")
    assert made["files"]["shots/6-seed4.jsonl"]["rows"] == 6
    assert main(words) == 0
    told = capsys.readouterr()
    assert told.out == ""
    assert "complete, every checksum agrees" in told.err
    assert "shots/3-seed*.jsonl" in told.err
    assert "for --task fever" in told.err


def test_malformed_rows_end_it_or_are_named(tmp_path, capsys):
    train = jsonl(tmp_path / "train.jsonl", SUPPORTED, OPEN | {"label": "OPEN"})
    words = ["prepare", "fever", train, "--out", str(tmp_path / "out")]
    assert main(words) == 2
    assert "train.jsonl:2: label 'OPEN'" in capsys.readouterr().err
    assert main([*words, "--skip-malformed"]) == 0
    told = capsys.readouterr().err
    assert "1 malformed rows left out" in told
    assert "train.jsonl:2: label 'OPEN'" in told
    assert "no 15-shot splits: train.jsonl has 1 distinct rows" in told


def test_wrong_sizes(tmp_path, capsys):
    assert main(["prepare", "nq", "x.jsonl", "--shots", "many"]) == 2
    assert "write sizes as 15,65" in capsys.readouterr().err


def test_wikipedia(tmp_path, capsys):
    pytest.importorskip("mwxml")
    pytest.importorskip("mwparserfromhell")
    path = str(dump(tmp_path / "wiki.xml.bz2"))
    words = ["prepare", "wikipedia", path, "--out", str(tmp_path / "w.jsonl"), "--processes", "1"]
    assert main([*words, "--skip-section", "Legacy"]) == 0
    assert "4 passages of" in (told := capsys.readouterr().err)
    assert "2 redirects, 2 disambiguations, 1 of other namespaces, 1 without text" in told
    assert main([*words, "--json", "--no-infoboxes", "--no-lists"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["passages"] == 3
