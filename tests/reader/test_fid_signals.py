from __future__ import annotations

import pytest
import torch
from torch import Tensor

from atlas_lm.reader import likelihood
from atlas_lm.reader.fid import FiDReader
from atlas_lm.reader.inputs import FiDInputs
from atlas_lm.reader.likelihood import labels_of, measure_signals, token_log_likelihood
from atlas_lm.reader.packing import PackedStates
from atlas_lm.runtime.errors import InputError
from atlas_lm.types import Generation, Signal, Tokens
from tests.reader.fid_models import KINDS, PASSAGES, QUERIES, TARGETS, batch, tiny_reader

ALL: frozenset[Signal] = frozenset({"passage_log_likelihood", "leave_one_out", "attention_mass"})


def chosen(inputs: FiDInputs, passages: list[int]) -> FiDInputs:
    tokens = inputs.tokens
    return FiDInputs.from_tokens(Tokens(tokens.ids[:, passages], tokens.mask[:, passages]))


def close(actual: Tensor | None, expected: Tensor | None) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def token_scores(reader: FiDReader, inputs: FiDInputs, target: Tokens) -> Tensor:
    with torch.no_grad():
        logits = reader.logits(reader.encode(inputs), target)
    return token_log_likelihood(logits, labels_of(target))


@pytest.mark.parametrize("kind", KINDS)
def test_likelihoods_are_those_of_reading_the_passages_apart(kind: str) -> None:
    reader = tiny_reader(kind)
    inputs, target = batch(reader)
    signals = reader.signals(inputs, target, ALL)
    alone = [token_scores(reader, chosen(inputs, [k]), target) for k in range(3)]
    others = [[1, 2], [0, 2], [0, 1]]
    without = [token_scores(reader, chosen(inputs, kept), target) for kept in others]
    close(signals.passage_log_likelihood, torch.stack(alone, 1))
    close(signals.leave_one_out, torch.stack(without, 1))
    assert torch.equal(signals.target_mask, target.mask)
    assert signals.leave_one_out is not None
    assert signals.leave_one_out[~target.mask[:, None].expand(-1, 3, -1)].eq(0).all()


def mass_by_hand(reader: FiDReader, inputs: FiDInputs, target: Tokens) -> Tensor:
    """Attention of the stock eager model times the norms of its own value projection."""
    packed = reader.encode(inputs)
    reader.model.decoder.set_attn_implementation("eager")
    output = reader.model(
        encoder_outputs=(packed.states,),
        attention_mask=packed.mask.long(),
        labels=labels_of(target),
        output_attentions=True,
    )
    mass = torch.zeros(2, 3)
    for attention, block in zip(output.cross_attentions, reader.model.decoder.block, strict=True):
        value = block.layer[1].EncDecAttention.v(packed.states).view(2, -1, 4, 8)
        for query in range(2):
            for passage in range(3):
                for source in (packed.layout.passage[query] == passage).nonzero():
                    for step in target.mask[query].nonzero():
                        probability = attention[query, :, step, source].flatten()
                        norm = value[query, source].norm(dim=-1).flatten()
                        mass[query, passage] += (probability * norm).mean() / 2
    return mass


@pytest.mark.parametrize("kind", ["t5_v11", "umt5"])
def test_attention_mass_by_hand(kind: str) -> None:
    reader = tiny_reader(kind)
    inputs, target = batch(reader)
    measured = reader.signals(inputs, target, frozenset({"attention_mass"})).attention_mass
    with torch.no_grad():
        torch.testing.assert_close(measured, mass_by_hand(reader, inputs, target))


def test_runs_over_few_passages_at_a_time_change_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = tiny_reader()
    inputs, target = batch(reader)
    whole = reader.signals(inputs, target, ALL)
    monkeypatch.setattr(likelihood, "MAX_ELEMENTS", 2 * target.ids.numel() * 1120)
    parts = reader.signals(inputs, target, ALL)
    close(whole.passage_log_likelihood, parts.passage_log_likelihood)
    close(whole.leave_one_out, parts.leave_one_out)


def test_only_what_is_asked_for_is_measured() -> None:
    reader = tiny_reader()
    inputs, target = batch(reader)
    signals = reader.signals(inputs, target, frozenset({"leave_one_out"}))
    assert signals.passage_log_likelihood is None
    assert signals.attention_mass is None
    assert signals.leave_one_out is not None
    assert not signals.leave_one_out.requires_grad


def test_the_logits_temperature_flattens_every_likelihood() -> None:
    reader = tiny_reader()
    inputs, target = batch(reader)
    hot = reader.signals(inputs, target, ALL, logit_temperature=1e6)
    uniform = torch.tensor(1120.0).log().neg()
    for signal in (hot.passage_log_likelihood, hot.leave_one_out):
        assert signal is not None
        real = signal[target.mask[:, None].expand_as(signal)]
        torch.testing.assert_close(real, uniform.expand_as(real), rtol=1e-4, atol=0)


def count_encoded_rows(reader: FiDReader) -> list[int]:
    rows: list[int] = []
    reader.model.encoder.register_forward_hook(
        lambda _module, _args, kwargs, _output: rows.append(len(kwargs["input_ids"])),
        with_kwargs=True,
    )
    return rows


@pytest.mark.parametrize("training", [False, True])
def test_read_encodes_once_where_that_changes_no_number(training: bool) -> None:
    reader = tiny_reader().train(training)
    inputs, target = batch(reader)
    expected = reader.signals(inputs, target, ALL)
    loss = reader.loss(inputs, target)
    rows = count_encoded_rows(reader)
    reading = reader.read(inputs, target, n_context=3, measure=ALL)
    assert sum(rows) == 6
    torch.testing.assert_close(reading.loss.total, loss.total)
    for name in ("passage_log_likelihood", "leave_one_out", "attention_mass"):
        close(getattr(reading.signals, name), getattr(expected, name))
    reading.loss.mean.backward()


def test_read_measures_in_eval_mode_under_dropout() -> None:
    reader = tiny_reader().train()
    inputs, target = batch(reader)
    expected = reader.signals(inputs, target, ALL)
    reader.set_dropout(0.5)
    reader.model.lm_head.eval()
    rows = count_encoded_rows(reader)
    reading = reader.read(inputs, target, n_context=3, measure=ALL)
    assert sum(rows) == 12
    close(reading.signals.leave_one_out, expected.leave_one_out)
    assert reading.loss.total.requires_grad
    assert reader.training
    assert not reader.model.lm_head.training


def test_read_scores_more_passages_than_it_reads() -> None:
    reader = tiny_reader()
    inputs, target = batch(reader)
    reading = reader.read(inputs, target, n_context=2, measure=ALL)
    torch.testing.assert_close(reading.loss.total, reader.loss(inputs.first(2), target).total)
    expected = reader.signals(inputs, target, ALL)
    close(reading.signals.leave_one_out, expected.leave_one_out)


@pytest.mark.parametrize(("training", "n_context"), [(False, 3), (True, 3), (True, 2)])
def test_read_divides_the_logits_of_the_signals_as_signals_does(
    training: bool, n_context: int
) -> None:
    reader = tiny_reader().train(training)
    inputs, target = batch(reader)
    expected = reader.signals(inputs, target, ALL, logit_temperature=0.1)
    plain = reader.signals(inputs, target, ALL)
    reading = reader.read(inputs, target, n_context=n_context, measure=ALL, logit_temperature=0.1)
    for name in ("passage_log_likelihood", "leave_one_out", "attention_mass"):
        close(getattr(reading.signals, name), getattr(expected, name))
    assert expected.passage_log_likelihood is not None
    assert not torch.allclose(
        expected.passage_log_likelihood, plain.passage_log_likelihood, atol=0.01
    )
    loss = reader.loss(inputs.first(n_context), target)
    torch.testing.assert_close(reading.loss.total, loss.total)


def test_leave_one_out_needs_two_passages() -> None:
    reader = tiny_reader()
    inputs, target = batch(reader)
    before = reader.model.decoder.config._attn_implementation
    with pytest.raises(InputError, match="at least 2 passages"):
        reader.signals(inputs.first(1), target, frozenset({"leave_one_out"}))
    assert reader.model.decoder.config._attn_implementation == before
    assert not reader.training


def test_the_attention_implementation_is_restored() -> None:
    reader = tiny_reader()
    inputs, target = batch(reader)
    for name in ("eager", "sdpa"):
        reader.model.encoder.set_attn_implementation(name)
        reader.model.decoder.set_attn_implementation(name)
        reader.signals(inputs, target, ALL)
        reader.generate(inputs, Generation(max_new_tokens=2, num_beams=2))
        assert reader.model.decoder.config._attn_implementation == name
        assert reader.model.encoder.config._attn_implementation == name


def test_leave_one_out_stays_in_float32_under_autocast() -> None:
    reader = tiny_reader()
    inputs, target = batch(reader)
    exact = reader.signals(inputs, target, ALL)
    with torch.autocast("cpu", torch.bfloat16):
        rough = reader.signals(inputs, target, ALL)
        with torch.no_grad():
            states = reader.encode(inputs)
    lifted = PackedStates(states.states.float(), states.layout)
    with torch.no_grad():
        loop = measure_signals(reader.model, lifted, target, frozenset({"leave_one_out"}))
    close(rough.leave_one_out, loop.leave_one_out)
    torch.testing.assert_close(
        rough.passage_log_likelihood, exact.passage_log_likelihood, rtol=0.1, atol=0.2
    )
    torch.testing.assert_close(rough.attention_mass, exact.attention_mass, rtol=0.05, atol=0.05)


def test_bfloat16_weights_work_throughout() -> None:
    reader = tiny_reader()
    inputs, target = batch(reader)
    exact = reader.signals(inputs, target, ALL)
    reader.to(torch.bfloat16)
    rough = reader.signals(inputs, target, ALL)
    assert rough.leave_one_out is not None
    assert rough.leave_one_out.dtype == torch.float32
    torch.testing.assert_close(rough.leave_one_out, exact.leave_one_out, rtol=0.1, atol=0.3)
    answers = reader.generate(inputs, Generation(max_new_tokens=3, num_beams=2))
    assert reader.attention_share(inputs, answers).shape == (2, 3)


def test_attention_share_sums_to_one_and_is_the_normalised_mass() -> None:
    reader = tiny_reader()
    inputs = reader.collate(QUERIES, PASSAGES)
    answers = reader.generate(inputs, Generation(max_new_tokens=5))
    share = reader.attention_share(inputs, answers)
    torch.testing.assert_close(share.sum(-1), torch.ones(2))
    for row, answer in enumerate(answers):
        alone = reader.collate(QUERIES[row : row + 1], PASSAGES[row : row + 1])
        ids = torch.tensor([answer.token_ids])
        written = Tokens(ids, torch.ones_like(ids, dtype=torch.bool))
        mass = reader.signals(alone, written, frozenset({"attention_mass"})).attention_mass
        assert mass is not None
        torch.testing.assert_close(share[row], mass[0] / mass.sum())
    assert reader.attention_share(reader.collate(QUERIES, [[], []]), answers).shape == (2, 0)


def test_signals_of_strings_are_those_of_their_tokens() -> None:
    reader = tiny_reader()
    inputs, target = batch(reader)
    by_text = reader.signals(inputs, TARGETS, ALL)
    by_token = reader.signals(inputs, target, ALL)
    assert by_text.leave_one_out is not None
    assert by_token.leave_one_out is not None
    assert torch.equal(by_text.leave_one_out, by_token.leave_one_out)
