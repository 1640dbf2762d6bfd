"""The scripts of benchmarks/evidence, as far as they decide what a table says."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "benchmarks" / "evidence"


@pytest.fixture(autouse=True)
def _scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))


def options(out: Path, **more) -> argparse.Namespace:
    return argparse.Namespace(**{"out": out, "only": None, "dry_run": False, "threads": 0} | more)


def test_a_cell_that_is_there_is_not_run_again(tmp_path):
    from cells import Cell, load_cell, run_cells

    ran: list[str] = []

    def cell(name: str) -> Cell:
        return Cell(name, lambda: ran.append(name) or {"found": name}, 1.0)

    run_cells([cell("a/1"), cell("a/2")], options(tmp_path, dry_run=True))
    assert ran == []
    run_cells([cell("a/1"), cell("a/2")], options(tmp_path, only=["a/2"]))
    run_cells([cell("a/1"), cell("a/2")], options(tmp_path))
    assert ran == ["a/2", "a/1"]
    assert load_cell(tmp_path, "a/1")["found"] == "a/1"


def test_differences_are_paired_over_the_questions_both_have():
    from tables import difference

    before = {"ids": ["1", "2", "3"], "values": {"em": [0, 0, 1]}}
    after = {"ids": ["3", "1", "9"], "values": {"em": [1, 1, 1]}}
    found = difference(before, after, "em")
    assert (found["mean"], found["n"]) == (0.5, 2)


def test_several_seeds_are_a_mean_and_a_deviation():
    from tables import over_seeds

    one = {"mean": 0.5, "low": 0.4, "high": 0.6}
    assert over_seeds([one]) == "50.0 [40.0, 60.0]"
    assert over_seeds([one, {**one, "mean": 0.7}], signed=True) == "+60.0 ± 14.1"


def test_tables_fill_their_places_and_others_stay(tmp_path):
    from write_tables import fill_in

    document = tmp_path / "evidence.md"
    empty = "<!-- table: retrieval * -->\n<!-- end -->\n"
    document.write_text(f"# E\n\n<!-- table: parameters -->\nold\n<!-- end -->\n\n{empty}")
    cell = {
        "kind": "open",
        "parameters": 1000,
        "facts": 50,
        "seconds": 3.0,
        "metrics": {"exact_match": {"mean": 0.9, "low": 0.8, "high": 1.0, "n": 50}},
        "run_by": {
            "command": "python /x/parameters.py --out /y --seeds 0",
            "torch": "2",
            "threads": 1,
            "date": "2026-01-01",
        },
    }
    fill_in(document, {"parameters/open/50-0": cell})
    text = document.read_text()
    assert "90.0 [80.0, 100.0]" in text
    assert "    python benchmarks/evidence/parameters.py --seeds 0\n" in text
    assert "old" not in text
    assert empty in text
    fill_in(document, {"parameters/open/50-0": cell})
    assert document.read_text() == text


def test_a_wide_world_states_every_fact_once():
    from wide_world import lessons, make_world, words

    world = make_world(45, seed=3)
    with pytest.raises(ValueError, match="give 1 to 40000"):
        make_world(40001, seed=3)
    assert len(world.passages()) == len(world.questions()) == 45
    assert len({row["id"] for row in world.passages()}) == 45
    by_id = {row["id"]: row for row in world.passages()}
    for question in world.questions():
        assert by_id[question["id"]]["text"].endswith(question["answers"][0])
    known = set(words())
    for lesson in lessons(20, seed=0):
        answer = lesson["answers"][0]
        assert any(passage["text"].endswith(answer) for passage in lesson["passages"])
        assert any(passage["title"] in lesson["question"] for passage in lesson["passages"])
        assert set(lesson["question"].split()) <= known


def test_rank_correlation_by_hand():
    from other_tables import spearman

    assert spearman([(1, 10), (2, 20), (3, 30)]) == pytest.approx(1.0)
    assert spearman([(1, 30), (2, 20), (3, 10)]) == pytest.approx(-1.0)
    assert spearman([(1, 1), (1, 2)]) is None


def test_the_schedule_of_the_quickstart_is_that_of_its_recipe():
    from minipedia_setup import Schedule

    assert Schedule.of(144) == Schedule(24, 36)
    assert Schedule.of(1500).warm == 96


def test_edited_facts_keep_relations_and_change_every_value():
    from factbook import Fact, edited

    facts = [
        Fact(f"country {n}", relation, f"{relation} {n}", "?", "!")
        for n in range(5)
        for relation in ("capital", "anthem")
    ]
    changed = edited(facts, 0)
    assert [fact.id for fact in changed] == [fact.id for fact in facts]
    assert all(a.value != b.value for a, b in zip(facts, changed, strict=True))
    assert sorted(fact.value for fact in changed) == sorted(fact.value for fact in facts)
    assert all(fact.value in fact.passage for fact in changed)


def test_a_summary_leaves_single_questions_out():
    from tables import summary

    cell = {"ids": ["1"], "values": {"em": [1]}, "metrics": {"em": {"mean": 1}}, "seconds": 1}
    assert json.dumps(summary(cell)) == json.dumps({"metrics": {"em": {"mean": 1}}, "seconds": 1})
