from __future__ import annotations

import sys
from importlib.metadata import EntryPoint

import pytest

from atlas_lm.runtime.errors import InputError
from atlas_lm.tasks import TASKS, QATask, Task, TaskConfig, find_task, make_task, registry
from atlas_lm.types import Example


class Capitals(Task):
    """A task of one's own, as a user would write it."""

    asked_field = "country"

    def process(self, row, *, place: str) -> Example:
        capital = row.get("capital", "")
        return Example(
            id=row["id"],
            query=f"The capital of {row['country']} is",
            target=capital,
            answers=(capital,) if capital else (),
        )


def register(monkeypatch, value: str) -> None:
    points = [EntryPoint("capitals", value, "atlas_lm.tasks")]
    monkeypatch.setattr(
        registry, "entry_points", lambda group: points if group == "atlas_lm.tasks" else []
    )


def test_names():
    kilt = "fever aidayago2 wned cweb trex structured_zeroshot nq hotpotqa triviaqa eli5 wow"
    assert set(TASKS) == {
        *("qa", "base", "lm", "mlm", "section", "fever", "fever2", "multiple_choice", "kilt"),
        *(f"kilt_{name}" for name in kilt.split()),
    }
    assert find_task("qa") is QATask


def test_an_unknown_name_gets_a_suggestion():
    with pytest.raises(InputError, match=r"unknown task 'bse' \(did you mean 'base'\?\); known"):
        make_task(TaskConfig(task="bse"))


def test_an_installed_package_registers_a_task(monkeypatch):
    register(monkeypatch, f"{__name__}:Capitals")
    task = make_task(TaskConfig(task="capitals"))
    example = task.process({"id": "1", "country": "Peru", "capital": "Lima"}, place="f:1")
    assert example.query == "The capital of Peru is"
    assert task.ask("Chad").query == "The capital of Chad is"
    assert task.answer(" N'Djamena ") == "N'Djamena"


def test_a_registered_task_that_cannot_be_imported_is_named(monkeypatch):
    register(monkeypatch, "no_such_module_here:Task")
    assert "no_such_module_here" not in sys.modules
    with pytest.raises(InputError, match="registered as 'no_such_module_here:Task'"):
        find_task("capitals")


def test_a_registered_thing_that_is_no_task_is_refused(monkeypatch):
    register(monkeypatch, f"{__name__}:register")
    with pytest.raises(InputError, match=r"not a subclass of atlas_lm\.tasks\.Task"):
        find_task("capitals")
