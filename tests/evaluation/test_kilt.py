"""Hand numbers of KILT's provenance measures."""

from __future__ import annotations

import pytest

from atlas_lm.evaluation import evaluate_answers
from atlas_lm.evaluation.kilt import page_recall_at_k, r_precision, ranked_pages
from atlas_lm.runtime.errors import InputError
from atlas_lm.types import Example, Generated, Passage, Retrieved

A, B, C, D, AB, CD, ABC = map(frozenset, ("a", "b", "c", "d", "ab", "cd", "abc"))


def test_pages_are_ranked_once():
    passages = [Passage(str(n), "", metadata={"wikipedia_id": p}) for n, p in enumerate("abac")]
    assert ranked_pages([*passages, Passage("x", "")]) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("pages", "provenance", "expected"),
    [
        ("abc", [A], 1.0),
        ("bac", [A], 0.0),  # R = 1: only the first page counts
        ("bac", [A, B], 1.0),  # the best set
        ("axb", [AB], 0.5),  # R = 2: one of the first two
        ("bax", [AB], 1.0),
        ("", [A], 0.0),
    ],
)
def test_r_precision(pages, provenance, expected):
    assert r_precision(list(pages), provenance) == expected


@pytest.mark.parametrize(
    ("pages", "provenance", "k", "expected"),
    [
        ("xa", [A], 2, 1.0),
        ("xa", [A], 1, 0.0),
        ("xa", [A, B], 2, 0.5),  # one of two sets is complete
        ("axb", [AB], 2, 1.0),  # a is taken out of the ranking, the set stands where b does
        ("axb", [AB], 1, 0.0),
        ("axc", [CD], 3, 0.0),  # d was never found
        ("acdb", [AB, CD], 2, 1.0),  # left: d (of c, d), b (of a, b)
        ("abxyzd", [ABC, D], 5, 0.5),  # a and b are one point of a set that is not complete
        ("abxyzd", [ABC, D], 4, 0.0),
        ("xab", [A, AB, A], 2, 0.5),  # a stands for its own set; a set given twice counts once
        ("xab", [A, AB, A], 3, 1.0),
    ],
)
def test_page_recall(pages, provenance, k, expected):
    assert page_recall_at_k(list(pages), provenance, k) == expected


def evaluated(*cases, measures=("accuracy",)):
    """Evaluate (answer written, page retrieved first) of examples whose answer is x on page a."""
    examples = [
        Example(str(n), "q", "t", ("x",), provenance=(A,), measures=measures)
        for n in range(len(cases))
    ]
    generated = [Generated(text, (), 0.0) for text, _ in cases]
    passages = tuple((Passage(page, "x", metadata={"wikipedia_id": page}),) for _, page in cases)
    import torch

    shape = (len(cases), 1)
    retrieved = Retrieved(passages, torch.zeros(shape), torch.zeros(shape, dtype=torch.int64))
    return evaluate_answers(examples, generated, retrieved).metrics.means()


def test_a_kilt_score_counts_an_answer_only_where_the_evidence_comes_first():
    found = evaluated(("x", "a"), ("x", "b"), ("y", "a"), ("y", "b"))
    assert found == {
        "accuracy": 0.5,
        "r_precision": 0.5,
        "page_recall_at_5": 0.5,
        "kilt_accuracy": 0.25,
    }


def test_each_data_sets_own_metrics():
    found = evaluated(("x", "a"), measures=("rouge_l", "f1"))
    assert set(found) >= {"rouge_l", "f1", "kilt_rouge_l", "kilt_f1"}
    assert "recall_at_1" not in found
    assert "recall_at_1" in evaluated(("x", "a"), measures=("exact_match", "recall"))


def test_an_unknown_measure_is_named():
    with pytest.raises(InputError, match=r"unknown measure 'acuracy' \(did you mean 'accuracy'"):
        evaluated(("x", "a"), measures=("acuracy",))
