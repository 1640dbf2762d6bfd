from __future__ import annotations

import pytest

from atlas_lm.reader.causal_prompt import Wording
from atlas_lm.reader.causal_settings import CausalSettings
from atlas_lm.runtime import logs
from atlas_lm.runtime.errors import InputError
from atlas_lm.types import Passage

from .causal_toys import byte_tokenizer


def wording(bos: bool = False, **settings) -> Wording:
    return Wording(byte_tokenizer(bos), CausalSettings(**settings))


def text(ids) -> str:
    return byte_tokenizer().decode(ids)


def test_prefix_holds_instruction_and_demonstrations():
    words = wording(instruction="I.\n\n", demonstrations=(("a?", "b"),))
    assert text(words.prefix) == "I.\n\nQuestion: a?\nAnswer: b\n\n"
    assert wording(bos=True).prefix[0] == 0


def test_a_long_passage_keeps_its_end_and_is_counted(monkeypatch, capsys):
    monkeypatch.setattr(logs, "_WARNED", set())
    words = wording(passage_maxlength=10)
    ids, cut = words.passage(Passage("1", "abcdefghijkl", "T"))
    assert (text(ids), cut) == ("T: abcde\n\n", True)
    inputs = words.inputs(["q", "r"], [[Passage("1", "x" * 30)], [Passage("2", "y")]])
    assert inputs.passages.mask.sum(-1).tolist() == [[10], [5]]
    said = capsys.readouterr().err
    assert "without their end: 1 of the first 2" in said
    assert "reader.settings.passage_maxlength=10" in said
    read = words.legible(Passage("1", "abcdefghijkl", "T"))
    assert (read.text, read.title) == ("abcde", "T")
    assert words.legible(Passage("2", "abcde", "T")) == Passage("2", "abcde", "T")


def test_a_long_query_keeps_the_wording_around_it():
    words = wording(query_maxlength=12)
    assert text(words.query("whatever")) == "Question:ver\nAnswer:"


def test_a_long_target_keeps_its_stop():
    words = wording(target_maxlength=4)
    assert text(words.target("abcdef")) == " ab\n"
    assert wording(stop="").target("a")[-1] == 1


def test_an_answer_loses_its_end_and_spaces():
    words = wording()
    assert words.decode(words.target("Ada")) == "Ada"
    assert words.end_ids == {1, words.end[0]}


def test_an_answer_is_cut_at_its_stop_however_it_is_spelt():
    words = wording(stop="\n##")
    written = byte_tokenizer()("Ada\n## more").input_ids
    assert [words.is_ended(written[:n]) for n in range(8)] == [False] * 6 + [True] * 2
    assert words.decode(written) == "Ada"
    assert wording(stop="").decode([*written, 1]) == "Ada\n## more"


def test_first_keeps_the_best_passages():
    inputs = wording().inputs(["q"], [[Passage("1", "a"), Passage("2", "b")]])
    assert inputs.n_context == 2
    assert inputs.first(1).n_context == 1


def test_a_query_without_any_token_is_refused():
    with pytest.raises(InputError, match="empty"):
        wording(query_format="{query}").query("")


def test_a_passage_format_without_the_text_or_with_codes_is_refused_at_once():
    for template in ("{title}", "{text!r}"):
        with pytest.raises(InputError, match="passage_format"):
            CausalSettings(passage_format=template)
