from __future__ import annotations

import argparse
import json

import pytest

from atlas_lm.cli import prepare

SETS = {"dev": {"nq": 1, "triviaqa": 2}, "test": {"nq": 3}, "extra": {"webq": 4}}
MANIFEST = {"kind": "minipedia"} | {
    "counts": {"passages": 10033, "supported": SETS, "answerable": SETS, "all": SETS},
    "provenance": [{"what": "nq: NQ-open", "from": "a package", "licence": "CC BY-SA 3.0"}],
}


@pytest.fixture
def calls(monkeypatch):
    seen = []

    def made(out, *, force, recompute):
        seen.append((str(out), force, recompute is not None))
        return MANIFEST

    monkeypatch.setattr(prepare, "prepare_minipedia", made)
    return seen


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    prepare.add_arguments(parser)
    return parser.parse_args(["minipedia", *arguments])


def test_json_is_alone_on_stdout(calls, capsys):
    assert prepare.run(parsed("--out", "here", "--json", "--force")) == 0
    assert json.loads(capsys.readouterr().out) == {"directory": "here", **MANIFEST}
    assert calls == [("here", True, False)]


def test_people_get_a_table_on_stderr(calls, capsys):
    assert prepare.run(parsed("--recompute-subsets")) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "10,033 passages" in captured.err
    assert "nq: NQ-open: CC BY-SA 3.0" in captured.err
    assert calls == [("data/minipedia", False, True)]


def test_everything_that_can_be_made_has_help_with_an_example():
    parser = argparse.ArgumentParser()
    prepare.add_arguments(parser)
    (verbs,) = (each.choices for each in parser._actions if isinstance(each.choices, dict))
    assert "minipedia" in verbs
    for name, verb in verbs.items():
        assert f"atlas-lm prepare {name}" in verb.format_help().split("example:")[1]
