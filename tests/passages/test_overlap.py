from __future__ import annotations

from atlas_lm.passages.overlap import Repeats
from atlas_lm.types import Overlap, Passage


def test_a_shared_run_of_words_repeats_whatever_case_and_punctuation():
    repeats = Repeats(Overlap("The quick, brown fox jumps", 4))
    assert repeats(Passage("1", "a quick brown FOX jumps over"))
    assert not repeats(Passage("2", "the quick brown dog jumps fox"))


def test_a_text_shorter_than_the_run_is_repeated_by_none():
    assert not Repeats(Overlap("brown fox", 3))(Passage("1", "brown fox"))
