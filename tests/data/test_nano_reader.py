from __future__ import annotations

import pytest
import torch
from transformers import AutoTokenizer

from atlas_lm.data.nano_reader import (
    GAP,
    NanoReaderConfig,
    new_reader,
    train_tokenizer,
    whole_words,
)
from atlas_lm.reader.fid import FiDReader
from atlas_lm.runtime.errors import InputError
from atlas_lm.types import Passage

TEXTS = [
    "The otter lives near the river Avon.",
    "In 1758 Linnaeus named the otter, in Uppsala.",
] * 8
TINY = NanoReaderConfig(
    vocab_size=320, dim=32, heads=4, intermediate=32, layers=1, decoder_layers=1
)


def test_tokenizer_is_repeatable_lower_cases_and_keeps_punctuation_and_years_apart(tmp_path):
    first, second = (train_tokenizer(TEXTS, 320) for _ in range(2))
    assert first.get_vocab() == second.get_vocab()
    first.save_pretrained(tmp_path)
    opened = AutoTokenizer.from_pretrained(tmp_path)
    for tokenizer in (first, opened):
        ids = tokenizer("The OTTER, in 1758.").input_ids
        assert tokenizer.decode(ids) == "the otter, in 1758."
        assert tokenizer(GAP).input_ids == [tokenizer.convert_tokens_to_ids(GAP)]
    assert first.tokenize("otter,")[-1] == ","
    assert "otter" in whole_words(first)
    assert all(len(word) > 3 for word in whole_words(first))


def test_mimetic_cross_attention_writes_what_it_reads():
    reader = new_reader(TEXTS, TINY)
    cross = reader.model.decoder.block[0].layer[1].EncDecAttention
    product = cross.o.weight @ cross.v.weight
    torch.testing.assert_close(product, 10 * torch.eye(32), atol=1e-4, rtol=0)
    random = new_reader(TEXTS, NanoReaderConfig(**{**TINY.__dict__, "init": "random"}))
    cross = random.model.decoder.block[0].layer[1].EncDecAttention
    assert not torch.allclose(cross.o.weight @ cross.v.weight, 10 * torch.eye(32), atol=1)


def test_one_seed_gives_one_reader_that_opens_again(tmp_path):
    state = torch.get_rng_state()
    reader, same = new_reader(TEXTS, TINY), new_reader(TEXTS, TINY)
    assert torch.equal(state, torch.get_rng_state())
    for one, other in zip(reader.parameters(), same.parameters(), strict=True):
        assert torch.equal(one, other)
    reader.save_pretrained(tmp_path / "reader")
    opened = FiDReader.from_pretrained(tmp_path / "reader")
    passages = [[Passage(id="1", title="Otter", text="It lives near the Avon.")]]
    losses = [
        each.loss(each.collate(["where does the otter live"], passages), ["Avon"]).mean
        for each in (reader, opened)
    ]
    torch.testing.assert_close(*losses)


def test_impossible_shapes_are_refused_by_name():
    with pytest.raises(InputError, match=r"reader\.heads=5"):
        NanoReaderConfig(heads=5)
    with pytest.raises(InputError, match=r"reader\.vocab_size=10"):
        NanoReaderConfig(vocab_size=10)
