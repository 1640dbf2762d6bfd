from __future__ import annotations

import random

import pytest

from atlas_lm.evaluation.metrics import (
    accuracy,
    answer_spans,
    exact_match,
    f1,
    gold_recall_at_k,
    has_answer,
    mrr,
    normalize_answer,
    recall_at_k,
    rouge_l,
)


def test_normalisation_drops_case_punctuation_articles_and_spaces():
    assert normalize_answer(" The U.S.A.,  an\tAnswer\n") == "usa answer"
    assert normalize_answer("A. The!") == ""


def test_accuracy_tells_titles_apart_that_exact_match_does_not():
    assert exact_match("beatles", ["The Beatles"]) == 1.0
    assert accuracy("beatles", ["The Beatles"]) == 0.0
    assert accuracy(" The Beatles\n", ["Beetle", "The Beatles"]) == 1.0


def test_answers_are_compared_with_the_best_of_several():
    # prediction "new york city", answer "new york": 2 common, 2*2 / (3+2) = 0.8
    assert f1("New York City", ["Boston", "New York"]) == pytest.approx(0.8)
    assert exact_match("New York City", ["Boston", "New York"]) == 0
    assert exact_match("the Boston", ["Boston", "New York"]) == 1


def test_tokens_count_as_often_as_they_occur():
    # common: cat once, dog once = 2 of 3 and 3
    assert f1("cat cat dog", ["cat dog dog"]) == pytest.approx(2 / 3)


@pytest.mark.parametrize(("prediction", "answer"), [("the", "a"), ("...", "!"), ("", "an")])
def test_f1_is_1_where_both_sides_normalise_to_nothing(prediction, answer):
    assert exact_match(prediction, [answer]) == f1(prediction, [answer]) == 1


def test_without_answers_nothing_is_right():
    assert exact_match("x", []) == f1("x", []) == rouge_l("x", []) == 0


def test_a_lone_string_is_not_a_list_of_letters():
    with pytest.raises(TypeError, match="sequence of strings"):
        exact_match("a", "abc")


def test_rouge_l_by_hand():
    # longest common subsequence of "a b c d" and "a c d e": a c d, 3 of 4 on both sides
    assert rouge_l("a b c d", ["A c, d e"]) == pytest.approx(0.75)
    assert rouge_l("東京 タワー", ["東京"]) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    "pair",
    [
        ("the quick brown fox. jumps", "a quick fox, jumps over"),
        ("U.S.A. won 1,000 medals", "usa won 1000"),
        ("snake_case here", "snake case there"),
        ("", "x"),
    ],
)
def test_rouge_l_is_the_packages_own_for_ascii(pair):
    from rouge_score.rouge_scorer import RougeScorer

    expected = RougeScorer(["rougeL"]).score(pair[1], pair[0])["rougeL"].fmeasure
    assert rouge_l(pair[0], [pair[1]]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("text", "answers", "expected"),
    [
        ("He moved to New York in 1990.", ["new york"], True),
        ("A party was held.", ["art"], False),
        ("The art, of war.", ["The Art of War"], True),
        ("Nothing here", ["Paris", "nothing"], True),
        ("the a an", ["the"], False),
        ("Born in 1990", ["199"], False),
        ("", ["x"], False),
        ("New\nYork", ["New York"], True),
    ],
)
def test_has_answer_on_word_boundaries(text, answers, expected):
    assert has_answer(text, answers) is expected


@pytest.mark.parametrize(
    ("text", "answers", "expected"),
    [
        ("In (New  York), in new york.", ["New York"], ["New  York", "new york"]),
        ("Art of the war; party", ["the art of war", "art"], ["Art of the war"]),
        ("by Sir Isaac Newton", ["Newton", "Isaac Newton"], ["Isaac Newton"]),
        ("the a an ...", ["the", "..."], []),
        ("$100 - or so", ["100 or"], ["100 - or"]),
        ("U.S.A.!", ["usa"], ["U.S.A"]),
    ],
)
def test_answers_are_found_in_the_text_as_written(text, answers, expected):
    assert [text[start:end] for start, end in answer_spans(text, answers)] == expected
    assert bool(expected) is has_answer(text, answers)


def test_spans_exist_exactly_where_an_answer_is_said_to_be():
    generator = random.Random(0)
    pieces = ["a", "the", "The", "cat", "Cat,", "-", "dog.", "(dog", "cat-dog", "“the”", "x—a—y"]
    for _ in range(2000):
        text = " ".join(generator.choices(pieces, k=6))
        answer = " ".join(generator.choices(pieces, k=generator.randint(1, 2)))
        assert bool(answer_spans(text, [answer])) is has_answer(text, [answer]), (text, answer)


def test_recall_and_mrr_by_hand():
    ranked = [False, False, True, True]
    assert [recall_at_k(ranked, k) for k in (1, 2, 3, 9)] == [0, 0, 1, 1]
    assert mrr(ranked) == pytest.approx(1 / 3)
    assert mrr([False]) == mrr([]) == 0
    assert mrr([False] * 19 + [True]) == 1 / 20
    assert mrr([False] * 20 + [True]) == 0


def test_gold_recall_is_a_share():
    assert gold_recall_at_k(["a", "b", "c"], {"b", "z"}, 2) == 0.5
    assert gold_recall_at_k(["a", "b", "c"], {"b", "z"}, 1) == 0
    with pytest.raises(ValueError, match="undefined"):
        gold_recall_at_k(["a"], set(), 1)
