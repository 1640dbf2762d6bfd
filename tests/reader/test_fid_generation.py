from __future__ import annotations

import pytest
import torch
from transformers.modeling_outputs import BaseModelOutput

from atlas_lm.types import Generation, Tokens
from tests.reader.fid_models import PASSAGES, QUERIES, tiny_reader, tokenizer


@pytest.mark.parametrize("kind", ["t5_v11", "umt5", "t5gemma"])
@pytest.mark.parametrize("beams", [1, 2, 5])
@pytest.mark.parametrize("least", [0, 6])
def test_beams_over_one_memory_are_the_stock_beams(kind: str, beams: int, least: int) -> None:
    reader = tiny_reader(kind)
    inputs = reader.collate(QUERIES, PASSAGES)
    packed = reader.encode(inputs)
    options = {"max_new_tokens": 8, "min_new_tokens": least, "num_beams": beams}
    expected = reader.model.generate(
        encoder_outputs=BaseModelOutput(last_hidden_state=packed.states.detach()),
        attention_mask=packed.mask.long(),
        do_sample=False,
        **options,
    )
    answers = reader.generate(inputs, Generation(**options))
    for answer, row in zip(answers, expected, strict=True):
        assert list(answer.token_ids) == row[1 : 1 + len(answer.token_ids)].tolist()
        assert len(answer.token_ids) >= least
        assert answer.text == tokenizer().decode(row, skip_special_tokens=True).strip()


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("least", [0, 5])
def test_log_prob_is_the_score_of_the_answer(beams: int, least: int) -> None:
    reader = tiny_reader()
    inputs = reader.collate(QUERIES, PASSAGES)
    generation = Generation(
        max_new_tokens=6, min_new_tokens=least, num_beams=beams, length_penalty=0.5
    )
    for row, answer in enumerate(reader.generate(inputs, generation)):
        alone = reader.collate(QUERIES[row : row + 1], PASSAGES[row : row + 1])
        ids = torch.tensor([answer.token_ids])
        score = reader.score(alone, Tokens(ids, torch.ones_like(ids, dtype=torch.bool)))
        assert answer.log_prob == pytest.approx(score.item(), rel=1e-4)


@pytest.mark.parametrize("beams", [1, 3])
def test_generation_settings_of_the_checkpoint_change_nothing(beams: int) -> None:
    reader = tiny_reader()
    inputs = reader.collate(QUERIES, PASSAGES)
    generation = Generation(max_new_tokens=8, num_beams=beams)
    expected = reader.generate(inputs, generation)
    config = reader.model.generation_config
    config.update(repetition_penalty=3.0, no_repeat_ngram_size=1, min_length=7)
    assert reader.generate(inputs, generation) == expected
    assert reader.model.generation_config is config


def test_an_answer_stops_at_its_end_token() -> None:
    reader = tiny_reader()
    with torch.no_grad():
        reader.model.lm_head.weight[1] = reader.model.lm_head.weight.abs().sum(0)
        inputs = reader.collate(QUERIES, PASSAGES)
        logits = reader.logits(reader.encode(inputs), reader.target_tokens([" a", " a"]))
        favourite = logits[:, 0].argmax(-1)
    answers = reader.generate(inputs, Generation(max_new_tokens=6))
    for answer, first in zip(answers, favourite.tolist(), strict=True):
        assert answer.token_ids[0] == first
        assert 1 not in answer.token_ids[:-1]


def test_prompts_of_different_lengths_change_nothing_for_each_other() -> None:
    reader = tiny_reader()
    inputs = reader.collate(QUERIES, PASSAGES)
    prompts = ["the river runs past the old", "a"]
    generation = Generation(max_new_tokens=4)
    together = reader.generate(inputs, generation, decoder_prompt=prompts)
    for row in range(2):
        alone = reader.collate(QUERIES[row : row + 1], PASSAGES[row : row + 1])
        apart = reader.generate(alone, generation, decoder_prompt=prompts[row : row + 1])
        assert apart[0].token_ids == together[row].token_ids
        assert apart[0].log_prob == pytest.approx(together[row].log_prob, rel=1e-4)


def test_generation_leaves_the_reader_as_it_was() -> None:
    reader = tiny_reader().train()
    reader.set_dropout(0.3)
    inputs = reader.collate(QUERIES, PASSAGES)
    first = reader.generate(inputs, Generation(max_new_tokens=4))
    assert first == reader.generate(inputs, Generation(max_new_tokens=4))
    assert reader.training
    assert all(part.training for part in reader.modules())
