from __future__ import annotations

import math

import numpy as np
import pytest

from atlas_lm.data.anserini_topics import Question
from atlas_lm.data.supported import (
    Evidence,
    SupportRule,
    bare_title,
    find_evidence,
    find_phrases,
    inverse_document_frequency,
    named_passages,
    shared_weight,
    usable_answers,
)
from atlas_lm.runtime.normalization import normalize_answer
from atlas_lm.types import Passage

RULE = SupportRule()


def test_answers_that_occur_everywhere_are_not_looked_for():
    answers = [
        "an ox",
        "42",
        "999",
        "007",
        "twenty-one",
        "Seven",
        "two hundred",
        "the",
        "🚁",
        "²³¹",
    ]
    kept = ["1,000", "1966", "Oxen", "Seven Samurai", "42nd Street"]
    expected = {"1000", "1966", "oxen", "seven samurai", "42nd street", "²³¹"}
    assert usable_answers(answers + kept, RULE) == expected


def test_phrases_are_found_word_for_word():
    texts = [["party", "of", "art"], ["modern", "art"], ["art", "of", "war", "art"]]
    found = find_phrases(texts, {"art", "art of war", "war art of", "party of", "", "lost"})
    assert found == {
        "art": frozenset({0, 1, 2}),
        "art of war": frozenset({2}),
        "party of": frozenset({0}),
    }


def test_titles_are_named_without_their_brackets():
    titles = ["Mercury (planet)", "Mercury (element)", "It (novel)", "Her (film)", "Pi"]
    questions = [normalize_answer(text).split() for text in ("Is Mercury hot?", "is it her pi?")]
    assert named_passages(questions, titles, RULE) == [{0, 1}, set()]
    assert bare_title("The Stranger (Camus novel)") == "stranger"


def test_shared_weight_by_hand():
    # Of four texts "x" stands in one, idf ln 4; "y" in two, ln 2; "z" in four, 0.
    idf = inverse_document_frequency([["x", "y", "z"], ["y", "z", "z"], ["z"], ["z"]])
    assert idf == pytest.approx({"x": math.log(4), "y": math.log(2), "z": 0.0})
    # Who is a function word and q stands nowhere: x and y count, 2 ln 2 and ln 2.
    assert shared_weight(["who", "x", "y", "q"], {"x"}, idf) == pytest.approx(2 / 3)
    assert shared_weight(["who", "x", "y", "q"], {"y", "z"}, idf) == pytest.approx(1 / 3)
    assert shared_weight(["x", "x", "y"], {"y"}, idf) == pytest.approx(1 / 3)
    assert shared_weight(["who", "q"], {"x"}, idf) == 0.0
    assert shared_weight(["z"], {"z"}, idf) == 0.0


PASSAGES = [
    Passage("lead-0", "Delft is a city where Vermeer painted pearls.", "Delft"),
    Passage("lead-1", "He painted a girl with a pearl earring.", "Johannes Vermeer"),
    Passage("lead-2", "A fruit eaten by Vermeer.", "Apple"),
    Passage("lead-3", "A metal.", "Iron"),
]


def evidence(question: str, answers: list[str], best: list[int]) -> Evidence:
    rows = np.array([best])
    return find_evidence([Question(question, tuple(answers))], PASSAGES, rows, RULE)[0]


def test_evidence_by_hand():
    # Row 1 holds girl, pearl and painted; row 2 holds the answer and nothing that is asked.
    found = evidence("Who painted the girl with a pearl?", ["Vermeer"], [0, 1, 2, 3])
    assert found == Evidence(supporting=(1,), other=(0, 2))
    assert found.answerable
    assert found.supported
    assert found.bearing == (1,)


def test_only_candidates_count():
    question = "Who painted the girl with a pearl?"
    assert evidence(question, ["Vermeer"], [2, 3]) == Evidence(other=(2,))
    assert evidence(question, ["Vermeer"], [3]) == Evidence()
    assert not evidence(question, ["Rembrandt"], [0, 1, 2, 3]).answerable


def test_a_named_title_is_a_candidate_and_supports():
    assert evidence("Whose town was Delft?", ["Vermeer"], [3]) == Evidence(supporting=(0,))


def test_candidates_beyond_topk_do_not_count():
    rows = np.array([[3, 1]])
    asked = [Question("Who painted the girl with a pearl?", ("Vermeer",))]
    assert find_evidence(asked, PASSAGES, rows, SupportRule(topk=1)) == [Evidence()]
    assert find_evidence(asked, PASSAGES, rows, SupportRule(topk=2)) == [Evidence((1,))]
