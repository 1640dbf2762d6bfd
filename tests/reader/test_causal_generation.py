from __future__ import annotations

import pytest
import torch

from atlas_lm.reader.causal import CausalReader, CausalSettings
from atlas_lm.reader.causal_generation import Ends, beam_search
from atlas_lm.types import Generation, Tokens

from .causal_toys import PASSAGES, QUERY, byte_tokenizer, tiny_llama, toy_reader


def stock(reader: CausalReader, row: int, **options) -> tuple[int, ...]:
    """What transformers' own generate writes behind the plain prompt."""
    words = reader.wording
    prompt = list(words.prefix)
    for passage in PASSAGES[row]:
        prompt += words.passage(passage)[0]
    ids = torch.tensor([prompt + words.query(QUERY[row])])
    out = reader.model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        eos_token_id=sorted(words.end_ids),
        pad_token_id=1,
        **options,
    )
    return tuple(token for token in out[0, ids.shape[1] :].tolist())


def unpadded(token_ids, reader):
    kept = []
    for token in token_ids:
        kept.append(token)
        if token in reader.wording.end_ids:
            break
    return tuple(kept)


@pytest.mark.parametrize("shots", [(), (("one?", "two"),)])
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    "options",
    [
        {"max_new_tokens": 6},
        {"max_new_tokens": 6, "min_new_tokens": 4},
        {"max_new_tokens": 6, "num_beams": 3},
        {"max_new_tokens": 5, "num_beams": 4, "length_penalty": 2.0},
    ],
)
def test_one_prompt_writes_what_stock_generate_writes(shots, seed, options):
    settings = CausalSettings(demonstrations=shots, passage_maxlength=24)
    reader = CausalReader(tiny_llama(seed), byte_tokenizer(), settings)
    answers = reader.generate(reader.collate(QUERY, PASSAGES), Generation(**options))
    for row, answer in enumerate(answers):
        assert answer.token_ids == unpadded(stock(reader, row, **options), reader)


@pytest.mark.parametrize("reading", ["one_prompt", "fused"])
@pytest.mark.parametrize("num_beams", [1, 3])
def test_log_prob_is_the_score_of_what_was_written(reading, num_beams):
    reader = toy_reader(reading=reading)
    inputs = reader.collate(QUERY, PASSAGES)
    answers = reader.generate(inputs, Generation(max_new_tokens=5, num_beams=num_beams))
    for row, answer in enumerate(answers):
        one = reader.collate(QUERY[row : row + 1], PASSAGES[row : row + 1])
        reader.wording.targets = lambda _, ids=answer.token_ids: _tokens(ids)
        score = reader.score(one, ["as written"])
        assert answer.log_prob == pytest.approx(float(score), rel=1e-4)


@pytest.mark.parametrize("reading", ["one_prompt", "fused"])
@pytest.mark.parametrize("num_beams", [1, 3])
def test_batched_answers_equal_single_ones(reading, num_beams):
    reader = toy_reader(reading=reading, demonstrations=(("a?", "b"),))
    generation = Generation(max_new_tokens=5, num_beams=num_beams)
    both = reader.generate(reader.collate(QUERY, PASSAGES), generation)
    for row in range(2):
        one = reader.collate(QUERY[row : row + 1], PASSAGES[row : row + 1])
        assert reader.generate(one, generation)[0].token_ids == both[row].token_ids


def always_writing(letter: str, **settings) -> CausalReader:
    reader = toy_reader(**settings)
    reader.model.lm_head.bias = torch.nn.Parameter(torch.zeros(258))
    with torch.no_grad():
        reader.model.lm_head.bias[byte_tokenizer()(letter).input_ids] = 1e4
    return reader


def test_an_answer_stops_at_the_newline():
    reader = always_writing("\n")
    newline = reader.wording.end[0]
    answers = reader.generate(reader.collate(QUERY, PASSAGES), Generation(max_new_tokens=5))
    assert [answer.token_ids for answer in answers] == [(newline,), (newline,)]
    assert [answer.text for answer in answers] == ["", ""]


@pytest.mark.parametrize("num_beams", [1, 2])
def test_an_answer_stops_at_a_stop_of_several_tokens(num_beams):
    reader = always_writing("#", stop="###")
    inputs = reader.collate(QUERY, PASSAGES)
    generation = Generation(max_new_tokens=9, num_beams=num_beams)
    for answer in reader.generate(inputs, generation):
        assert answer.token_ids == tuple(reader.wording.end)
        assert (answer.text, answer.cut) == ("", False)
    allowed = reader.generate(inputs, generation, allowed=[["a", "b"], ["c"]])
    assert all(answer.text in given for answer, given in zip(allowed, ("ab", "c"), strict=True))
    assert not any(answer.cut for answer in allowed)


@pytest.mark.parametrize("n_ends", [1, 2, 6])
def test_beams_do_not_fill_up_with_one_answer_under_several_ends(n_ends):
    """Tokens 0 and 1 are words; from 2 on all end an answer. "0" then any end scores best."""
    first = torch.tensor([[0.2, 0.12, 0.35, 0.34, 0.33, 0.32, 0.31, 0.3]])[:, : 2 + n_ends]
    then = torch.tensor([0.001, 0.001, 0.9, 0.3, 0.3, 0.3, 0.3, 0.3])[: 2 + n_ends]
    answer = beam_search(
        first.log(),
        lambda tokens, _: then.log().expand(len(tokens), -1),
        Ends(torch.arange(2, 2 + n_ends), lambda _, ids: ids[-1] >= 2),
        Generation(max_new_tokens=3, num_beams=2, length_penalty=2.0),
    )[0]
    assert answer.token_ids == (0, 2)
    expected = (first[0, 0] / first.sum()).log() + (then[2] / then.sum()).log()
    assert answer.log_prob == pytest.approx(float(expected), rel=1e-5)


def _tokens(ids):
    return Tokens.padded([ids])
