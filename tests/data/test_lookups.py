from __future__ import annotations

import pytest

from atlas_lm.data.lookups import RELATIONS, LookupConfig, lookups, pairs_of, split_names
from atlas_lm.runtime.errors import InputError

NAMES = [f"Name{n}" for n in range(50)] + ["Two Words", "Three Whole Words"]


def test_names_are_split_once_and_for_all_and_held_out_ones_are_not_trained_on():
    train, held = split_names(NAMES, words=2)
    assert (train, held) == split_names(list(reversed(NAMES)), words=2)
    assert not set(train) & set(held)
    assert set(train) | set(held) == set(NAMES) - {"Three Whole Words"}
    with pytest.raises(InputError, match="3 names"):
        split_names(["a", "b", "c"], words=1)


def test_pairs_are_two_words_each_and_never_a_word_with_held_out_ones():
    trained, held = split_names([f"w{n}" for n in range(100)], words=1)
    pairs = pairs_of(trained)
    assert len(set(pairs)) == len(pairs) == 8 * 90
    assert all(set(pair.split()) <= set(trained) and len(pair.split()) == 2 for pair in pairs)
    assert pairs == pairs_of(trained)
    assert not set(pairs) & set(pairs_of(held))
    with pytest.raises(InputError, match="7 words make no pairs; at least 8"):
        pairs_of(trained[:7])


def test_exactly_one_fact_answers_and_its_words_stand_in_a_passage():
    config = LookupConfig(count=200, passages=3, facts=3, seed=1)
    rows = list(lookups(NAMES, config))
    assert rows == list(lookups(NAMES, config))
    assert len({row["id"] for row in rows}) == 200
    for row in rows:
        assert len(row["passages"]) == 3
        assert any(row["target"] in passage["text"] for passage in row["passages"])


def test_no_subject_has_two_facts_of_the_relation_asked_for():
    for row in lookups(NAMES, LookupConfig(count=200, passages=4, facts=3)):
        relation, subject = _asked(row["query"])
        stated = [
            said
            for passage in row["passages"]
            for said in _sentences(passage["text"])
            if any(_matches(said, template, subject) for template in RELATIONS[relation][0])
        ]
        assert len(stated) == 1, (row, stated)
        assert row["target"] in stated[0]


def test_every_relation_is_asked_for_and_its_templates_name_both_sides():
    asked = {_asked(row["query"])[0] for row in lookups(NAMES, LookupConfig(count=400))}
    assert asked == set(RELATIONS)
    for said, questions in RELATIONS.values():
        assert all("{s}" in text and ("{o}" in text or "{y}" in text) for text in said)
        assert all("{s}" in text for text in questions)


def test_impossible_options_are_refused_by_name():
    with pytest.raises(InputError, match=r"lookups\.passages=0"):
        LookupConfig(passages=0)


def _asked(query: str) -> tuple[str, str]:
    for relation, (_, questions) in RELATIONS.items():
        for template in questions:
            before, after = template.split("{s}")
            if query.startswith(before) and query.endswith(after):
                subject = query[len(before) : len(query) - len(after)]
                if subject in NAMES:
                    return relation, subject
    raise AssertionError(query)


def _sentences(text: str) -> list[str]:
    return [f"{sentence.rstrip('.')}." for sentence in text.split(". ")]


def _matches(sentence: str, template: str, subject: str) -> bool:
    before, after = template.format(s=subject, o="|", y="|").split("|", 1)
    return sentence.startswith(before) and sentence.endswith(after.split("|")[-1])


def test_more_passages_than_names_can_be_told_apart_in_are_refused():
    names = [f"n{n}" for n in range(2)]
    with pytest.raises(InputError, match=r"passages=40.*2 names"):
        next(lookups(names, LookupConfig(passages=40)))
