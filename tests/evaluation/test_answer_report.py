from __future__ import annotations

import dataclasses
import json
from html.parser import HTMLParser

import pytest
import torch

from atlas_lm.evaluation import evaluate_answers
from atlas_lm.evaluation.answer_page import write_answer_page
from atlas_lm.evaluation.answer_report import (
    answer_names,
    facts,
    ground,
    make_report,
    report_tables,
)
from atlas_lm.evaluation.measures import MEASURES
from atlas_lm.types import Example, Generated, Passage, Retrieved

EXAMPLES = [Example(str(n), f"who is {n} <b>?", "t", (f"name {n}",)) for n in range(4)]
PASSAGES = tuple(
    (Passage(f"p{n}", f"It was name {n}."), Passage(f"other{n}", "It was nobody."))
    for n in range(4)
)
FOUND = Retrieved(PASSAGES, torch.zeros(4, 2), torch.zeros(4, 2, dtype=torch.int64))


def whole(query: str, passage: Passage) -> Passage:
    return passage


def answers(*texts: str):
    return [Generated(text, (1,), -0.1 * n - 0.1) for n, text in enumerate(texts)]


@pytest.fixture
def report():
    opened = evaluate_answers(EXAMPLES, answers("name 0", "name 1", "nobody", "x"), FOUND, ks=(1,))
    closed = evaluate_answers(EXAMPLES, answers("name 0", "?", "?", "?"))
    return make_report({"closed": closed, "open": opened}, n_context=2, legible=whole)


def test_grounding_by_hand(report):
    found = report.grounding
    assert found.contained.mean == 0.75  # two right ones and "nobody"; "x" stands nowhere
    assert found.contained_right.mean == 1.0
    assert found.contained_wrong.mean == 0.5
    assert found.reachable.mean == 1.0


def test_only_passages_that_were_read_count(report):
    records = report.evaluations["open"].records
    assert ground(records, 1, whole).contained.mean == 0.5  # "nobody" stands in the second passage


def test_only_what_was_read_of_a_passage_counts(report):
    def first_words(query: str, passage: Passage) -> Passage:
        return dataclasses.replace(passage, text=passage.text[: len("It was n")])

    found = ground(report.evaluations["open"].records, 2, first_words)
    assert (found.contained.mean, found.reachable.mean) == (0.0, 0.0)


def test_answers_that_nothing_judges_are_not_called_wrong():
    unjudged = [dataclasses.replace(example, measures=("rouge_l", "f1")) for example in EXAMPLES]
    opened = evaluate_answers(unjudged, answers("name 0", "name 1", "?", "x"), FOUND, ks=(1,))
    found = ground(opened.records, 2, whole)
    assert found.contained.mean == 0.5
    assert found.contained_right is None
    assert found.contained_wrong is None


def test_a_chosen_label_is_not_sought_in_passages():
    chosen = [dataclasses.replace(example, choices=("a", "b")) for example in EXAMPLES]
    opened = evaluate_answers(chosen, answers("name 0", "name 1", "nobody", "x"), FOUND, ks=(1,))
    assert ground(opened.records, 2, whole) is None


def test_rouge_is_reported_where_it_is_the_metric():
    long = [dataclasses.replace(example, measures=("rouge_l", "f1")) for example in EXAMPLES]
    written = evaluate_answers(long, answers("name 0", "name 1", "nobody", "x"), FOUND, ks=(1,))
    assert answer_names(written) == ["rouge_l", "f1"]


def test_a_measure_of_a_package_is_reported_whatever_its_name(monkeypatch):
    monkeypatch.setitem(MEASURES, "precision", lambda answer, accepted: 1.0)
    asked = [dataclasses.replace(example, measures=("precision", "recall")) for example in EXAMPLES]
    written = evaluate_answers(asked, answers("name 0", "name 1", "nobody", "x"), FOUND, ks=(1,))
    assert answer_names(written) == ["precision"]
    assert "recall_at_1" in written.metrics


def test_the_open_book_is_compared_with_every_other_condition(report):
    compared = {c.name: c for c in report.comparisons["closed"]}
    assert compared["exact_match"].difference.mean == 0.25
    assert "recall_at_1" not in compared


def test_json_holds_conditions_calibration_and_grounding(report):
    printed = json.loads(json.dumps(report.to_dict()))
    assert printed["conditions"]["closed"]["exact_match"]["mean"] == 0.25
    assert printed["calibration"]["answers"] == 4
    assert printed["calibration"]["auroc"] == 1.0
    assert printed["grounding"]["contained_wrong"]["n"] == 2
    assert printed["n_context"] == 2


def test_the_page_stands_alone_and_escapes_what_users_wrote(report, tmp_path):
    page = tmp_path / "report.html"
    write_answer_page(page, report, title="A <report>", notes=["a & b"])
    text = page.read_text("utf-8")
    assert "who is 0 &lt;b&gt;?" in text
    assert "A &lt;report&gt;" in text
    assert "http" not in text
    assert "src=" not in text
    _Balanced().check(text)


def test_tables_for_the_terminal(report):
    first, second = report_tables(report).renderables
    assert first.row_count == 2
    assert second.row_count == len(facts(report))


class _Balanced(HTMLParser):
    def check(self, text: str) -> None:
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "line", "circle"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("meta", "line", "circle"):
            assert self.open.pop() == tag
