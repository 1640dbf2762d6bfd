from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tokenizers.normalizers import Lowercase

from atlas_lm.data.tinymodels import tiny_reader
from atlas_lm.reader.constrained import AllowedAnswers, Constraint
from atlas_lm.reader.fid import FiDReader
from atlas_lm.runtime import logs
from atlas_lm.runtime.errors import InputError
from atlas_lm.types import Generation, Passage
from tests.reader.causal_toys import toy_reader

WORDS = ["ask", "red", "green", "blue", "sky", "sea"]
ALLOWED = ("red", "red sky", "blue sea")
END = 9


def test_what_can_follow_a_beginning():
    rows = [[1, 2, END], [1, END], [1, 3, END], [4, END], [1, END]]
    answers = AllowedAnswers(rows, "abcde")
    assert len(answers) == 4
    assert answers.following([]) == [1, 4]
    assert answers.following([1]) == [2, 3, END]
    assert answers.following([1, 2]) == [END]
    assert answers.following([1, END]) == []
    assert answers.following([7]) == []
    assert [answers.target(row) for row in (*rows, [1], [9, 9])] == [*"abcdb", None, None]


def test_a_large_set_is_quick_to_ask():
    numbers = range(10_000)
    answers = AllowedAnswers(([n // 100, n % 100, END] for n in numbers), map(str, numbers))
    assert len(answers.following([])) == 100


def test_no_answer_is_refused():
    with pytest.raises(InputError, match="no answer is allowed"):
        AllowedAnswers([], [])


def test_a_prompt_counts_as_written_where_answers_begin_with_it():
    answers = AllowedAnswers([[1, 2, END], [1, 3, END]], "ab")
    assert Constraint([answers], [[1]]).following(0, []) == [2, 3]
    assert Constraint([answers], [[8]]).following(0, []) == [1]


def inputs_of(reader, bsz=2):
    passages = [[Passage("1", "sky green"), Passage("2", "sea red")]] * bsz
    return reader.collate(["ask"] * bsz, passages)


@pytest.fixture(scope="module")
def fid():
    return tiny_reader(WORDS, seed=1)


@pytest.mark.parametrize("kind", ["fid", "causal"])
def test_an_allowed_answer_that_is_too_long_is_refused_and_a_cut_target_is_said(
    fid, kind, capsys, monkeypatch
):
    monkeypatch.setattr(logs, "_WARNED", set())
    if kind == "fid":
        settings = replace(fid.settings, target_maxlength=2)
        reader = FiDReader(fid.model, fid.tokenizer, settings)
    else:
        reader = toy_reader(target_maxlength=5)
    inputs = inputs_of(reader)
    with pytest.raises(InputError, match=r"tokens, such as 'red sky'; raise it"):
        reader.generate(inputs, Generation(), allowed=[("red", "red sky"), ("sea",)])
    reader.score(inputs, ["red sky", "sea"])
    shown = " ".join(capsys.readouterr().err.split())
    most = reader.settings.target_maxlength
    assert f"reader.settings.target_maxlength={most} cuts a target" in shown


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_t5_reader_writes_what_is_allowed_for_each_query(fid, num_beams):
    inputs = inputs_of(fid)
    generation = Generation(max_new_tokens=4, num_beams=num_beams)
    free = fid.generate(inputs, generation)
    written = fid.generate(inputs, generation, allowed=[ALLOWED, ("green",)])
    assert written[0].text in ALLOWED
    assert written[0].text != free[0].text
    assert written[1].text == "green"
    for answer in written:
        score = fid.score(inputs, [answer.text] * 2)[0]
        assert answer.log_prob == pytest.approx(float(score), abs=1e-4)


def test_with_a_beam_for_each_answer_the_likeliest_is_written(fid):
    inputs = inputs_of(fid, 1)
    generation = Generation(max_new_tokens=4, num_beams=3, length_penalty=0.0)
    written = fid.generate(inputs, generation, allowed=[ALLOWED])[0]
    scores = fid.score_each(inputs, [[target] for target in ALLOWED])[:, 0]
    assert written.text == ALLOWED[int(scores.argmax())]
    assert written.log_prob == pytest.approx(float(scores.max()), abs=1e-4)


def test_a_prompt_is_continued_to_an_allowed_answer(fid):
    written = fid.generate(
        inputs_of(fid),
        Generation(max_new_tokens=4),
        decoder_prompt=["red"] * 2,
        allowed=[("red sky", "blue sea")] * 2,
    )
    assert [answer.text for answer in written] == ["sky", "sky"]


@pytest.mark.parametrize("num_beams", [1, 2])
def test_an_answer_keeps_the_letters_that_the_tokenizer_loses(num_beams):
    reader = tiny_reader([*WORDS, "<extra_id_0>"], seed=1)
    reader.tokenizer.backend_tokenizer.normalizer = Lowercase()
    reader.tokenizer.add_special_tokens({"additional_special_tokens": ["<extra_id_0>"]})
    generation = Generation(max_new_tokens=4, num_beams=num_beams)
    allowed = [("<extra_id_0> Red Sky",), ("Blue 東", "blue 京")]
    written = reader.generate(inputs_of(reader), generation, allowed=allowed)
    assert [answer.text for answer in written] == ["Red Sky", "Blue 東"]
    begun = reader.generate(
        inputs_of(reader), generation, decoder_prompt=["<extra_id_0> Red", "Blue"], allowed=allowed
    )
    assert [answer.text for answer in begun] == ["Sky", "東"]


def test_a_decoder_only_reader_keeps_the_letters_that_its_tokenizer_loses():
    reader = toy_reader(target_format=" Answer: {target}")
    reader.tokenizer.backend_tokenizer.normalizer = Lowercase()
    inputs = reader.collate(["who"], [[Passage("1", "a b")]])
    generation = Generation(max_new_tokens=8)
    written = reader.generate(inputs, generation, allowed=[("Ada B",)])
    assert written[0].text == "Answer: Ada B"
    written = reader.generate(inputs, generation, decoder_prompt=["Ada"], allowed=[("Ada B",)])
    assert written[0].text == "B"


def test_several_targets_scored_at_once_are_scored_alike(fid):
    inputs = inputs_of(fid)
    targets = [["red", "sky sea"], ["blue", "green"]]
    together = fid.score_each(inputs, targets)
    assert torch.allclose(together, torch.stack([fid.score(inputs, t) for t in targets]))


@pytest.mark.parametrize("num_beams", [1, 4])
def test_a_decoder_only_reader_writes_what_is_allowed(num_beams):
    reader = toy_reader()
    inputs = reader.collate(["who", "where"], [[Passage("1", "a b")]] * 2)
    allowed = [("a", "a b", "c d"), ("d",)]
    generation = Generation(max_new_tokens=8, num_beams=num_beams)
    written = reader.generate(inputs, generation, allowed=allowed)
    assert written[0].text in allowed[0]
    assert written[1].text == "d"
    targets = [answer.text for answer in written]
    assert reader.score(inputs, targets).tolist() == pytest.approx(
        [answer.log_prob for answer in written], abs=1e-3
    )
    scores = reader.score_each(inputs, [targets, targets])
    assert torch.allclose(scores[0], scores[1])


@pytest.mark.parametrize("num_beams", [1, 2])
@pytest.mark.parametrize("kind", ["fid", "causal"])
def test_an_allowed_answer_may_be_shorter_than_others_must_be(fid, kind, num_beams):
    reader = fid if kind == "fid" else toy_reader()
    generation = Generation(max_new_tokens=9, min_new_tokens=9, num_beams=num_beams)
    plain = replace(generation, min_new_tokens=0)
    inputs, allowed = inputs_of(reader), [("red", "blue"), ("sea", "sky")]
    answers = reader.generate(inputs, generation, allowed=allowed)
    assert answers == reader.generate(inputs, plain, allowed=allowed)
    assert all(answer.text in given for answer, given in zip(answers, allowed, strict=True))


def test_a_decoder_only_reader_continues_a_prompt():
    reader = toy_reader()
    inputs = reader.collate(["who"], [[Passage("1", "a b")]])
    allowed = [("a b", "c d")]
    written = reader.generate(
        inputs, Generation(max_new_tokens=8), decoder_prompt=["c"], allowed=allowed
    )
    assert written[0].text == "d"


@pytest.mark.parametrize("num_beams", [1, 3])
def test_no_allowed_answer_is_cut_by_the_length_of_others(fid, num_beams):
    generation = Generation(max_new_tokens=1, num_beams=num_beams)
    long = ["red sky blue", "blue red sea"]
    written = fid.generate(inputs_of(fid, 1), generation, allowed=[long])[0]
    assert written.text in long
    assert not written.cut
    assert fid.generate(inputs_of(fid, 1), replace(generation, min_new_tokens=1))[0].cut
    reader = toy_reader()
    inputs = reader.collate(["who"], [[Passage("1", "a b")]])
    written = reader.generate(inputs, generation, allowed=[("a b c d",)])[0]
    assert written.text == "a b c d"
    assert not written.cut
    assert reader.generate(inputs, replace(generation, min_new_tokens=1))[0].cut
