from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest
import torch

from atlas_lm.evaluation import (
    AnswerRecord,
    Metrics,
    RunFacts,
    choose_examples,
    compare_records,
    record_answers,
    summarise,
    write_run_card,
)
from atlas_lm.evaluation.card_examples import change, highlight, snippet
from atlas_lm.types import Example, Generated, Passage, Retrieved

VOID = {"meta", "br"}


class Checker(HTMLParser):
    """Notes unbalanced tags, outside resources and visible text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        assert tag not in {"script", "link", "img", "iframe"}
        assert not {"src", "href"} & {name for name, _ in attrs}
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def side(good: int) -> tuple[AnswerRecord, ...]:
    """Return 20 records, the first ``good`` of them right."""
    examples = [
        Example(str(n), f"question: who <{n}>? answer: <extra_id_0>", "t", ("R&D",))
        for n in range(20)
    ]
    generated = [Generated("R&D" if n < good else "<b>", (1,), -1.0) for n in range(20)]
    passages = (Passage("p<1>", "All of R&D, here.", "T & U"), Passage("p2", "<script>x</script>"))
    found = Retrieved((passages,) * 20, torch.ones(20, 2), torch.zeros(20, 2, dtype=torch.int64))
    return record_answers(examples, generated, found)


@pytest.fixture
def card(tmp_path) -> str:
    before, after = side(2), side(15)
    history = [
        {"step": step, "reader_loss": 3 / step, "kl": 0.1 * step, "lr_reader": step / 7}
        for step in range(1, 200)
    ]
    history.append({"step": 199, "evaluation": {"recall_at_1": {"mean": 0.5, "low": 0, "high": 1}}})
    path = tmp_path / "run" / "card.html"
    write_run_card(
        path,
        title="A <run> & more",
        config={"training": {"steps": 199, "lr": 1e-4}, "seed": 0},
        history=history,
        before=summarise(before),
        after=summarise(after),
        comparisons=compare_records(before, after),
        examples_before_after=choose_examples(before, after),
        notes=["One note."],
        changed=["training.lr"],
        facts=RunFacts(staleness={"refreshes": 3}, timings={"training": 12.5}),
    )
    return path.read_text("utf-8")


def test_the_card_is_one_well_formed_file_without_outside_resources(card):
    checker = Checker()
    checker.feed(card)
    assert checker.open == []
    assert not re.search(r"url\(|@import|https?://", card)
    for chart in re.findall(r"<svg.*?</svg>", card, flags=re.DOTALL):
        ElementTree.fromstring(chart)


def test_the_card_says_what_happened(card):
    checker = Checker()
    checker.feed(card)
    text = " ".join(checker.text)
    for part in (
        "A <run> & more",
        "One note.",
        "Reader loss",
        "KL(gold ‖ retriever)",
        "Recall on held-out questions",
        "10 questions, before and after",
        "who <1",
        "refreshes",
        "12.5 s",
        "improved",
        "+65.0",
        "unchanged",
    ):
        assert part in text, part
    assert '<tr class="changed"><td class="key">lr</td>' in card
    assert card.count('class="changed"') == 1
    assert "<mark>R&amp;D</mark>" in card
    assert "prefers-color-scheme: dark" in card


def test_an_empty_run_has_a_card_too(tmp_path):
    path = tmp_path / "card.html"
    write_run_card(
        path,
        title="Nothing yet",
        config={},
        history=[{"step": 1, "reader_loss": float("nan")}],
        before=Metrics({}),
        after=Metrics({}),
        comparisons=(),
        examples_before_after=(),
        notes=(),
    )
    assert "Nothing yet" in path.read_text()
    assert "<figure" not in path.read_text()


def test_examples_of_every_kind_are_drawn_by_seed():
    before, after = side(8), side(2)
    after = (*after[:-1], side(20)[-1])
    chosen = choose_examples(before, after, count=6)
    assert [change(pair) for pair in chosen] == [1, -1, -1, -1, 0, 0]
    assert chosen == choose_examples(before, after, count=6)
    assert chosen != choose_examples(before, after, count=6, seed=1)
    assert len(choose_examples(before, after, count=99)) == 20


def test_snippets_are_cut_around_the_answer():
    text = "word " * 200 + "the secret place " + "word " * 200
    cut = snippet(text, ["Secret place"], length=100)
    assert "secret place" in cut
    assert len(cut) < 110
    assert cut.startswith("… word")
    assert cut.endswith("word …")
    assert snippet("short", ["x"]) == "short"
    assert snippet("x" * 900, ["y"], length=100) == "x" * 50 + " …"


def test_highlighting_escapes_what_it_does_not_mark():
    assert highlight("<b>The Bard</b>", ["bard"]) == "&lt;b&gt;The Bard&lt;/b&gt;"
    assert highlight("by The Bard, <i>", ["bard"]) == "by The <mark>Bard</mark>, &lt;i&gt;"
