from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from atlas_lm.reader.fid import FiDReader
from atlas_lm.reader.inputs import FiDInputs
from atlas_lm.reader.likelihood import labels_of
from atlas_lm.runtime import logs
from atlas_lm.runtime.dropout import dropout_is_active
from atlas_lm.runtime.errors import InputError
from atlas_lm.types import Generation, Passage, Tokens
from tests.reader.fid_models import (
    KINDS,
    PASSAGES,
    QUERIES,
    TARGETS,
    batch,
    tiny_model,
    tiny_reader,
    tokenizer,
)

LONG = Generation(max_new_tokens=8)


def stock(reader: FiDReader, inputs: FiDInputs) -> dict[str, Tensor]:
    """A single passage for each query, as the stock model takes it: padded rows and a mask."""
    return {
        "input_ids": inputs.tokens.ids.squeeze(1),
        "attention_mask": inputs.tokens.mask.squeeze(1).long(),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_one_passage_is_the_stock_model(kind: str) -> None:
    reader = tiny_reader(kind)
    inputs = reader.collate(QUERIES, PASSAGES).first(1)
    target = reader.target_tokens(TARGETS)
    expected = reader.model(**stock(reader, inputs), labels=labels_of(target))
    torch.testing.assert_close(reader.loss(inputs, TARGETS).mean, expected.loss)
    logits = reader.logits(reader.encode(inputs), target)
    torch.testing.assert_close(logits[target.mask], expected.logits[target.mask])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beams", [1, 4])
def test_one_passage_generates_what_the_stock_model_does(kind: str, beams: int) -> None:
    reader = tiny_reader(kind)
    inputs = reader.collate(QUERIES, PASSAGES).first(1)
    expected = reader.model.generate(
        **stock(reader, inputs), max_new_tokens=8, num_beams=beams, do_sample=False
    )
    answers = reader.generate(inputs, Generation(max_new_tokens=8, num_beams=beams))
    for answer, row in zip(answers, expected, strict=True):
        assert list(answer.token_ids) == row[1 : 1 + len(answer.token_ids)].tolist()


def test_closed_book_is_the_stock_model_on_the_query() -> None:
    reader = tiny_reader()
    inputs = reader.collate(QUERIES, [[], []])
    assert inputs.n_context == 0
    encoded = tokenizer()(QUERIES, padding=True, return_tensors="pt")
    expected = reader.model(
        input_ids=encoded.input_ids,
        attention_mask=encoded.attention_mask,
        labels=labels_of(reader.target_tokens(TARGETS)),
    )
    torch.testing.assert_close(reader.loss(inputs, TARGETS).mean, expected.loss)
    assert len(reader.generate(inputs, LONG)) == 2
    assert reader.read(inputs, TARGETS, n_context=5, measure=frozenset()).loss.tokens > 0
    with pytest.raises(InputError, match="closed book"):
        reader.signals(inputs, TARGETS, frozenset({"leave_one_out"}))


def test_fusion_is_the_stock_decoder_over_all_padded_states() -> None:
    reader = tiny_reader()
    inputs, target = batch(reader)
    tokens = inputs.tokens
    states = reader.model.encoder(
        input_ids=tokens.ids.flatten(0, 1), attention_mask=tokens.mask.flatten(0, 1).long()
    ).last_hidden_state
    expected = reader.model(
        encoder_outputs=BaseModelOutput(last_hidden_state=states.reshape(2, -1, 32)),
        attention_mask=tokens.mask.flatten(1).long(),
        labels=labels_of(target),
    )
    torch.testing.assert_close(reader.loss(inputs, target).mean, expected.loss)
    packed = reader.encode(inputs)
    assert packed.states.shape[1] == int(tokens.mask.sum((1, 2)).max())
    for row in range(2):
        torch.testing.assert_close(
            packed.states[row][packed.mask[row]],
            states.view(2, -1, 32)[row][tokens.mask[row].flatten()],
        )


@pytest.mark.parametrize("chunks", [1, 2, 5, 50])
def test_the_number_of_encoder_runs_changes_no_number(chunks: int) -> None:
    usual, other = tiny_reader(), tiny_reader(encoder_chunks=chunks)
    inputs, target = batch(usual)
    torch.testing.assert_close(usual.loss(inputs, target).total, other.loss(inputs, target).total)


def test_a_slice_of_a_batch_is_a_batch_of_slices() -> None:
    reader = tiny_reader()
    together = reader.score(reader.collate(QUERIES, PASSAGES), TARGETS)
    apart = [
        reader.score(reader.collate(QUERIES[i : i + 1], PASSAGES[i : i + 1]), TARGETS[i : i + 1])
        for i in range(2)
    ]
    torch.testing.assert_close(together, torch.cat(apart))


def test_the_order_of_passages_does_not_matter() -> None:
    reader = tiny_reader()
    turned = [row[::-1] for row in PASSAGES]
    torch.testing.assert_close(
        reader.score(reader.collate(QUERIES, PASSAGES), TARGETS),
        reader.score(reader.collate(QUERIES, turned), TARGETS),
    )


def test_the_loss_is_a_sum_and_a_count_so_that_accumulation_is_the_large_batch() -> None:
    reader = tiny_reader()
    inputs, target = batch(reader)
    loss = reader.loss(inputs, target)
    assert loss.tokens == int(target.mask.sum())
    torch.testing.assert_close(loss.total, -reader.score(inputs, target).sum())


def test_token_targets_are_as_good_as_strings() -> None:
    reader = tiny_reader()
    inputs, target = batch(reader)
    ignored = Tokens(target.ids.masked_fill(~target.mask, -100), target.mask)
    assert torch.equal(reader.loss(inputs, target).total, reader.loss(inputs, TARGETS).total)
    assert torch.equal(reader.loss(inputs, ignored).total, reader.loss(inputs, TARGETS).total)


def test_gradient_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for checkpointing in (False, True):
        reader = tiny_reader().train()
        if checkpointing:
            reader.enable_gradient_checkpointing()
        inputs, target = batch(reader)
        measure = frozenset({"passage_log_likelihood"})
        reading = reader.read(inputs, target, n_context=3, measure=measure)
        reading.loss.mean.backward()
        gradients.append([parameter.grad for parameter in reader.parameters()])
        assert reading.signals.passage_log_likelihood is not None
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed, rtol=1e-4, atol=1e-4)


def test_dropout_is_set_everywhere() -> None:
    reader = tiny_reader().train()
    assert not dropout_is_active(reader.model)
    inputs, target = batch(reader)
    still = reader.loss(inputs, target).total
    assert torch.equal(still, reader.loss(inputs, target).total)
    reader.set_dropout(0.5)
    assert dropout_is_active(reader.model)
    assert not torch.equal(reader.loss(inputs, target).total, reader.loss(inputs, target).total)
    assert reader.model.config.dropout_rate == 0.5
    reader.eval()
    assert not dropout_is_active(reader.model)
    assert torch.equal(still, reader.loss(inputs, target).total)
    reader.train().set_dropout(0.0)
    assert torch.equal(still, reader.loss(inputs, target).total)
    with pytest.raises(InputError, match="probability"):
        reader.set_dropout(1.0)


def test_bfloat16_autocast_gives_a_float32_loss() -> None:
    reader = tiny_reader()
    inputs, target = batch(reader)
    exact = reader.loss(inputs, target)
    with torch.autocast("cpu", torch.bfloat16):
        rough = reader.loss(inputs, target)
    assert rough.total.dtype == torch.float32
    torch.testing.assert_close(rough.total, exact.total, rtol=0.05, atol=0.1)


def test_an_unsupported_model_is_named_with_what_is_supported() -> None:
    model = tiny_model()
    model.config.model_type = "bart"
    with pytest.raises(InputError, match=r"'bart'.*t5, mt5, umt5, t5gemma"):
        FiDReader(model, tokenizer())


def test_passages_are_worded_with_title_and_section_where_there_are_any() -> None:
    reader = tiny_reader()
    inputs = reader.collate(QUERIES, PASSAGES)
    ids = inputs.tokens.ids[0][inputs.tokens.mask[0]].tolist()
    texts = tokenizer().decode(ids).split("</s>")
    wordings = [
        f"{QUERIES[0]} title: Mill context: {PASSAGES[0][0].text}",
        f"{QUERIES[0]} title: Cat: Habits context: {PASSAGES[0][1].text}",
        f"{QUERIES[0]} context: Stone.",
    ]
    expected = [tokenizer().decode(tokenizer()(text).input_ids[:-1]) for text in wordings]
    assert [text.strip() for text in texts[:3]] == [text.strip() for text in expected]


def test_truncated_inputs_keep_their_end_token_and_are_counted(monkeypatch, capsys) -> None:
    monkeypatch.setattr(logs, "_WARNED", set())
    reader = tiny_reader(text_maxlength=20)
    inputs = reader.collate(QUERIES, PASSAGES)
    whole = tiny_reader().collate(QUERIES, PASSAGES)
    lengths = whole.tokens.mask.sum(-1)
    said = capsys.readouterr().err
    assert f"without their end: {int((lengths > 20).sum())} of the first {lengths.numel()}" in said
    last = (inputs.tokens.mask.sum(-1) - 1)[..., None]
    assert set(inputs.tokens.ids.gather(-1, last).flatten().tolist()) == {1}


def test_what_is_legible_of_a_passage_is_what_was_read() -> None:
    passage = Passage("1", "It was built beside the river by a miller.", "Mill")
    texts = set()
    for most in range(18, 60, 3):
        reader = tiny_reader(text_maxlength=most)
        ids = reader.collate(QUERIES[:1], [[passage]]).tokens.ids.flatten()
        written = tokenizer().decode(ids, skip_special_tokens=True)
        read = reader.legible(QUERIES[0], passage)
        if read.heading:
            assert written.rstrip().endswith(f"title: Mill context: {read.text}".rstrip())
        texts.add(read.text)
    assert {"", passage.text} < texts
    assert len(texts) > 5


def test_targets_are_tokenised_as_given_and_end() -> None:
    reader = tiny_reader(target_maxlength=4)
    target = reader.target_tokens(["<extra_id_0> the river", "<extra_id_0>"])
    sentinel = tokenizer().convert_tokens_to_ids("<extra_id_0>")
    assert target.ids[:, 0].tolist() == [sentinel, sentinel]
    assert target.ids[0, 3] == 1
    assert target.ids[1].tolist() == [sentinel, 1, 0, 0]
    assert target.mask.tolist() == [[True] * 4, [True, True, False, False]]


def test_batches_that_make_no_sense_are_refused() -> None:
    reader = tiny_reader()
    with pytest.raises(InputError, match="0 to 1 passages"):
        reader.collate(QUERIES, [[Passage("a", "x")], []])
    with pytest.raises(InputError, match="2 queries with 1"):
        reader.collate(QUERIES, [[]])
    ids = torch.ones(1, 1, 3, dtype=torch.long)
    for mask in ([False, False, False], [False, True, True], [True, False, True]):
        with pytest.raises(InputError, match="pads on the right"):
            FiDInputs.from_tokens(Tokens(ids, torch.tensor([[mask]])))
    with pytest.raises(InputError, match="bsz n_context length"):
        FiDInputs.from_tokens(Tokens(ids[0], torch.ones(1, 3, dtype=torch.bool)))
    with pytest.raises(InputError, match="at least 1 passage"):
        reader.collate(QUERIES, PASSAGES).first(0)
