from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest

from atlas_lm.tasks.spans import hidden_spans, units


def spans(length, density=0.15, mean_span=3.0, most=99, seed=0):
    draw = random.Random(seed)
    return hidden_spans(length, density=density, mean_span=mean_span, most=most, draw=draw)


@pytest.mark.parametrize("length", [2, 3, 5, 20, 100, 512, 5000])
@pytest.mark.parametrize("density", [0.15, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("mean_span", [1.0, 3.0, 50.0])
def test_spans_are_apart_in_order_and_hide_the_share_asked_for(length, density, mean_span):
    for seed in range(5):
        found = spans(length, density, mean_span, seed=seed)
        assert 1 <= len(found) <= 99
        places = [place for span in found for place in span]
        assert places == sorted(places)
        assert places[0] >= 0
        assert places[-1] <= length
        assert all(start < end for start, end in found)
        assert all(end < start for (_, end), (start, _) in itertools.pairwise(found))
        hidden = sum(end - start for start, end in found)
        assert hidden == min(max(round(length * density), 1), length - 1)


def test_a_hundred_words_give_five_spans_of_three():
    assert len(spans(100)) == 5


def test_more_spans_than_sentinels_become_longer_spans():
    found = spans(5000)  # 750 words, 250 spans of 3
    assert len(found) == 99
    assert sum(end - start for start, end in found) == 750


def test_spans_longer_than_the_gaps_leave_a_word_between_each():
    # 9 of 10 hidden in spans of 1: the one shown word keeps two spans apart.
    assert len(spans(10, density=0.9, mean_span=1.0)) == 2


def test_every_placement_is_equally_likely():
    # 1 of 4 hidden: the span stands at each of 4 places.
    counts = Counter(spans(4, density=0.25, seed=seed)[0][0] for seed in range(2000))
    assert sorted(counts) == [0, 1, 2, 3]
    assert all(400 < count < 600 for count in counts.values())


def test_units_are_words_and_characters_where_there_are_no_spaces():
    text = "two  words, 東京"
    assert [text[start:end] for start, end in units(text)] == ["two", "words,", "東", "京"]
