from __future__ import annotations

import json

import pytest

from atlas_lm.cli import main
from tests.planning.small import fid

SMALL = ["plan", "--passages", "10K", "--retriever", "contriever-nano"]


def test_a_plan_as_json(capsys):
    code = main([*SMALL, "--world", "4", "--index", "ivfpq64", "--ram", "64GB", "--json"])
    assert code == 0
    plan = json.loads(capsys.readouterr().out)
    assert [stage["name"] for stage in plan["stages"]] == ["build", "open", "search"]
    assert plan["request"]["retriever"] == "contriever-nano"
    assert plan["request"]["dim"] == 256
    assert plan["index"]["kind"] == "IVF512,PQ64"
    assert plan["index"]["rows_per_process"] == 2500
    assert plan["throughput"]["source"] == "assumed"
    assert plan["machine"]["ram_bytes"] == 64 * 10**9
    assert plan["fits"] is True


def test_an_index_of_codes_that_the_passage_encoder_would_leave_behind(tmp_path, capsys):
    fid(1).config.to_json_file(tmp_path / "config.json")
    asked = [*SMALL, "--index", "int8", "--reader", str(tmp_path), "--ram", "64GB"]
    assert main([*asked, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["fits"] is False
    assert "cannot follow" in plan["refused"]
    assert {"options": "--query-side", "fits": True}.items() <= plan["changes"][0].items()
    assert main(asked) == 0
    assert "cannot follow" in " ".join(capsys.readouterr().out.split())


def test_a_plan_to_read(tmp_path, capsys):
    fid(1).config.to_json_file(tmp_path / "config.json")
    code = main(
        [
            *(*SMALL, "--passages", "100M", "--ram", "8GB", "--disk", "1TB"),
            *("--objective", "none", "--reader", str(tmp_path), "--passage-tokens", "20"),
        ]
    )
    assert code == 0
    shown = capsys.readouterr().out
    for part in ("build", "train step", "generate", "bytes a vector", "needs", "--index binary"):
        assert part in shown


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--passages", "lots"], "give a count"),
        (["--reader", "t5-hug"], "did you mean"),
        (["--index", "nonsense"], "factory string"),
        (["--dim", "77"], "--dim 77"),
        (["--ram", "x"], "give a size"),
        (["--world", "1", "--machines", "2"], "machines=2"),
        (["--device", "cuda", "--measure"], "--measure"),
    ],
)
def test_wrong_input_is_named(wrong, said, capsys):
    base = SMALL if "--dim" not in wrong else SMALL[:3]
    assert main([*base, *wrong]) == 2
    assert said in capsys.readouterr().err
