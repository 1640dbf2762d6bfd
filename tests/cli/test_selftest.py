from __future__ import annotations

from pathlib import Path

import pytest

from atlas_lm.cli import main, selftest
from tests.cli.running import said


@pytest.mark.slow
def test_the_selftest_passes(tmp_path, capsys):
    result = said(capsys, "selftest")
    assert result["passed"]
    assert [step["passed"] for step in result["steps"]] == [True] * 10
    each = [step["seconds"] for step in result["steps"]]
    assert min(each) > 0
    assert result["seconds"] == pytest.approx(sum(each))


def test_what_a_step_checks_is_checked_also_where_python_leaves_out_assertions(tmp_path):
    place = Path(selftest.__file__)
    optimized = {"__name__": selftest.__name__}
    exec(compile(place.read_text("utf-8"), place, "exec", optimize=1), optimized)
    with pytest.raises(optimized["StepError"], match="inspect ended with 2"):
        optimized["_verb"]("inspect", tmp_path / "nothing")
    log = tmp_path / "metrics.jsonl"
    log.write_text('{"loss": 1.0}\n{"loss": 2.0}\n')
    with pytest.raises(optimized["StepError"], match="loss did not fall"):
        optimized["_curve"](str(log), "loss")
    with pytest.raises(optimized["StepError"], match="no kl was logged"):
        optimized["_curve"](str(log), "kl")


def test_an_exception_of_any_kind_is_a_failed_step(monkeypatch, capsys):
    def fails(test: selftest.SelfTest) -> None:
        with test.step("world"):
            raise KeyError("people")

    monkeypatch.setattr(selftest, "end_to_end", fails)
    assert main(["selftest"]) == 1
    shown = capsys.readouterr().out
    assert "KeyError: 'people'" in shown
    assert "the last step failed" in shown
