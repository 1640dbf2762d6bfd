from __future__ import annotations

from atlas_lm.passages.overlap import Repeats
from atlas_lm.types import Overlap, Passage


def test_a_shared_run_of_words_repeats_whatever_case_and_punctuation():
    repeats = Repeats(Overlap("The quick, brown fox jumps", 4))
    assert repeats(Passage("1", "a quick brown FOX jumps over"))
    assert not repeats(Passage("2", "the quick brown dog jumps fox"))


def test_a_text_shorter_than_the_run_is_repeated_by_none():
    assert not Repeats(Overlap("brown fox", 3))(Passage("1", "brown fox"))


def test_scripts_without_spaces_are_compared_by_character():
    hidden = "東京都は日本の首都であり世界最大級の都市圏を形成している"
    repeats = Repeats(Overlap(hidden, 8))
    assert repeats(Passage("1", f"別の文。{hidden[5:15]}と言う。"))
    assert not repeats(Passage("1", f"別の文。{hidden[5:12]}と言う。"))
