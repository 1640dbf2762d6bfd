"""The reader against the published implementation's numbers, from given weights and token ids.

The reader is a T5 v1.1 (gated GELU, untied head).
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from atlas_lm.reader.fid import FiDReader
from atlas_lm.reader.generation import left_padded
from atlas_lm.reader.inputs import FiDInputs
from atlas_lm.reader.settings import ReaderSettings
from atlas_lm.types import Generation, Signal, Tokens
from tests.parity.golden import (
    assert_golden,
    golden_passages,
    golden_queries,
    golden_targets,
    load_golden,
    write_t5,
)

ALL: frozenset[Signal] = frozenset({"passage_log_likelihood", "leave_one_out", "attention_mass"})


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> FiDReader:
    directory = write_t5(tmp_path_factory.mktemp("t5") / "reader")
    return FiDReader.from_pretrained(
        directory, ReaderSettings(text_maxlength=80, target_maxlength=12)
    )


@pytest.fixture(scope="module")
def inputs() -> FiDInputs:
    golden = load_golden()
    return FiDInputs.from_tokens(
        Tokens(golden["batch/reader_ids"], golden["batch/reader_mask"].bool())
    )


@pytest.fixture(scope="module")
def target() -> Tokens:
    labels = load_golden()["batch/labels"]
    return Tokens(labels, labels != -100)


def lengths(target: Tokens) -> Tensor:
    return target.mask.sum(-1, keepdim=True)


def test_strings_become_the_same_tokens(
    reader: FiDReader, inputs: FiDInputs, target: Tokens
) -> None:
    ours = reader.collate(golden_queries(), golden_passages())
    for row in range(2):
        for column in range(5):
            if not golden_passages()[row][column].title:
                continue  # the reference writes an empty title, we leave the title out
            expected = inputs.tokens.ids[row, column][inputs.tokens.mask[row, column]]
            assert torch.equal(
                ours.tokens.ids[row, column][ours.tokens.mask[row, column]], expected
            )
    short, cut = reader.target_tokens(golden_targets()).ids.tolist()
    assert short[:9] == target.ids[0, :9].tolist()
    assert cut[:11] == target.ids[1, :11].tolist()
    assert cut[11] == reader.tokenizer.eos_token_id  # the reference cuts the end token off


def test_reader_loss_and_logits(reader: FiDReader, inputs: FiDInputs, target: Tokens) -> None:
    assert_golden(reader.loss(inputs, target).mean, "t5_v11/reader_loss")
    logits = reader.logits(reader.encode(inputs), target)
    assert_golden(logits, "t5_v11/logits")


def test_encoder_states_of_real_tokens(reader: FiDReader, inputs: FiDInputs) -> None:
    expected = load_golden()["t5_v11/encoder_last_hidden"]
    packed = reader.encode(inputs)
    mask = inputs.tokens.mask.flatten(1)
    error = max(
        (packed.states[row][packed.mask[row]] - expected[row][mask[row]]).abs().max().item()
        for row in range(2)
    )
    assert error <= 1e-4 * expected[mask].abs().max().item()


def test_pdist_gold_scores(reader: FiDReader, inputs: FiDInputs, target: Tokens) -> None:
    scores = reader.signals(inputs, target, ALL).passage_log_likelihood
    assert scores is not None
    assert_golden(scores.sum(-1) / lengths(target), "t5_v11/gold/ppmean")


def test_loop_gold_scores(reader: FiDReader, inputs: FiDInputs, target: Tokens) -> None:
    scores = reader.signals(inputs, target, ALL).leave_one_out
    assert scores is not None
    assert_golden(-scores.sum(-1) / lengths(target), "t5_v11/gold/loop")


@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0])
def test_emdr2_log_probabilities(
    reader: FiDReader, inputs: FiDInputs, target: Tokens, temperature: float
) -> None:
    measure: frozenset[Signal] = frozenset({"passage_log_likelihood"})
    signals = reader.signals(inputs, target, measure, logit_temperature=temperature)
    scores = signals.passage_log_likelihood
    assert scores is not None
    key = f"t5_v11/gold/emdr_logprobs/T{temperature}"
    real = target.mask[:, None].expand_as(scores)
    expected = load_golden()[key]
    error = (scores - expected)[real].abs().max().item()
    assert error <= 1e-4 * expected[real].abs().max().item()


@pytest.mark.parametrize("key", ["gold/evalnormssum", "gold/stdnormssum", "xattn/normssum"])
def test_adist_aggregates(reader: FiDReader, inputs: FiDInputs, target: Tokens, key: str) -> None:
    """The reference sums over layers and divides by 256 x layers x target tokens.

    Ours is a mean over layers, so the layers cancel.
    """
    mass = reader.signals(inputs, target, ALL).attention_mass
    assert mass is not None
    assert_golden(mass / (256 * lengths(target)), f"t5_v11/{key}")


GENERATIONS = {
    "greedy": Generation(max_new_tokens=15),
    "greedy_n3": Generation(max_new_tokens=15),
    "greedy_min14": Generation(max_new_tokens=15, min_new_tokens=13),
    "beam4": Generation(max_new_tokens=15, num_beams=4),
    "beam4_lp0.3": Generation(max_new_tokens=15, num_beams=4, length_penalty=0.3),
}
"""The reference's lengths count the start token. ``beam4_lp2`` is exempt: the library's length
penalty and stopping rule changed after the release that wrote it (4.18), so the best of the
finished beams is another one."""


@pytest.mark.parametrize("name", GENERATIONS)
def test_generated_ids(reader: FiDReader, inputs: FiDInputs, name: str) -> None:
    read = inputs.first(3) if name == "greedy_n3" else inputs
    expected = load_golden()[f"t5_v11/gen/{name}"].tolist()
    for answer, row in zip(reader.generate(read, GENERATIONS[name]), expected, strict=True):
        ids = [0, *answer.token_ids]
        assert ids + [0] * (len(row) - len(ids)) == row


def test_the_decoder_prompt_comes_first(
    reader: FiDReader, inputs: FiDInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The golden prompts ("the {query}") fill all 16 tokens that the reference generated."""
    expected = load_golden()["t5_v11/gen/greedy_prompt"]
    prompts = [f"the {query}" for query in golden_queries()]
    seen: list[Tensor] = []
    stock = reader.model.generate

    def generate(**keywords: object) -> object:
        output = stock(**keywords)
        seen.append(output.sequences)
        return output

    monkeypatch.setattr(reader.model, "generate", generate)
    answers = reader.generate(inputs, Generation(max_new_tokens=3), decoder_prompt=prompts)
    rows = reader.tokenizer(prompts, add_special_tokens=False).input_ids
    longest = left_padded(rows, pad=0).ids.shape[1]
    for row, sequence, answer in zip(range(2), seen[0], answers, strict=True):
        written = sequence[longest - len(rows[row]) :]
        assert written[:16].tolist() == expected[row].tolist()
        assert sequence[1 + longest :].tolist() == list(answer.token_ids)
