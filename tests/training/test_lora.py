from __future__ import annotations

import builtins

import pytest
import torch
from transformers import AutoModel, AutoModelForSeq2SeqLM

from atlas_lm.reader.causal import CausalReader, CausalSettings
from atlas_lm.reader.fid import FiDReader
from atlas_lm.retriever import BiEncoder
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.weights import is_plain, plain_state
from atlas_lm.training.lora import LoRAConfig, add_lora
from tests.reader.causal_toys import byte_tokenizer, tiny_llama
from tests.training.parallel_world import Store, questions, tiny_atlas, training, updates

pytest.importorskip("peft")
LORA = LoRAConfig(rank=4, alpha=8.0)


def adapted(config=LORA, **options):
    atlas = tiny_atlas(**options)
    add_lora(atlas.reader, config, name="reader")
    add_lora(atlas.retriever, config, name="retriever")
    return atlas


def read(reader):
    with torch.no_grad():
        inputs = reader.collate(["w1 w2"], [Store().all[:3]])
        return reader.score(inputs, ["w5 w6"])


def test_nothing_changes_until_the_first_update():
    plain, atlas = tiny_atlas(), adapted()
    assert torch.equal(read(atlas.reader), read(plain.reader))
    expected = plain.retriever.fingerprint("corpus")
    assert atlas.retriever.fingerprint("corpus") == expected
    assert not is_plain(atlas.reader.model)
    assert is_plain(plain.reader.model)


@pytest.mark.parametrize("tied", [True, False])
def test_only_adapters_learn_and_what_is_saved_opens_with_plain_transformers(tmp_path, tied):
    atlas = adapted(tied=tied)
    base = {name: value.clone() for name, value in atlas.reader.state_dict().items()}
    gradients, _ = updates(atlas, training(), steps=3)
    assert gradients
    assert all("lora_" in name for name in gradients)
    for name, value in atlas.reader.state_dict().items():
        assert torch.equal(value, base[name]) == ("lora_" not in name)
    atlas.save_pretrained(tmp_path)
    own = read(atlas.reader)
    assert not torch.allclose(own, read(tiny_atlas().reader), atol=1e-4)
    again = FiDReader.from_pretrained(tmp_path / "reader")
    torch.testing.assert_close(read(again), own, rtol=1e-4, atol=1e-5)
    stock = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "reader")
    assert stock.state_dict().keys() == plain_state(atlas.reader.model).keys()
    retriever = BiEncoder.from_pretrained(tmp_path / "retriever")
    texts = [one.query for one in questions(4)]
    with torch.no_grad():
        torch.testing.assert_close(
            retriever.embed_queries(texts), atlas.retriever.embed_queries(texts)
        )
        passages = Store().all[:4]
        torch.testing.assert_close(
            retriever.embed_corpus(passages), atlas.retriever.embed_corpus(passages)
        )
    AutoModel.from_pretrained(tmp_path / "retriever" / ("" if tied else "query"))


def test_adapters_are_drawn_alike_whatever_was_drawn_before():
    one = adapted()
    torch.rand(3)
    for name, value in adapted().reader.state_dict().items():
        assert torch.equal(value, one.reader.state_dict()[name])


def test_some_layers_can_be_named():
    atlas = tiny_atlas()
    add_lora(atlas.reader, LoRAConfig(rank=2, targets=("q", "v")), name="reader")
    learning = [name for name, p in atlas.reader.named_parameters() if p.requires_grad]
    assert learning
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in learning} == {"q", "v"}
    with pytest.raises(InputError, match=r"reader\.lora\.targets.*'query'.*there are .*q"):
        add_lora(tiny_atlas().reader, LoRAConfig(rank=2, targets=("query",)), name="reader")


def test_a_frozen_passage_encoder_gets_no_adapters():
    atlas = tiny_atlas(tied=False)
    atlas.retriever.freeze_passage_encoder()
    add_lora(atlas.retriever, LORA, name="retriever")
    assert is_plain(atlas.retriever.passage_encoder)
    assert not is_plain(atlas.retriever.query_encoder)


def test_frozen_layers_get_no_adapters_and_other_settings_thaw_nothing():
    settings = CausalSettings(trainable_layers=1)
    reader = CausalReader(tiny_llama(layers=3), byte_tokenizer(), settings)
    add_lora(reader, LORA, name="reader")
    learning = {name for name, p in reader.named_parameters() if p.requires_grad}
    assert {name.split(".lora_")[0].rpartition("layers.")[2][0] for name in learning} == {"2"}
    assert all(".lora_" in name for name in learning)
    other = reader.with_settings(demonstrations=(("a?", "b"),))
    assert {name for name, p in other.named_parameters() if p.requires_grad} == learning


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"rank": -1}, "lora.rank=-1"),
        ({"rank": 4, "alpha": 0.0}, "lora.alpha"),
        ({"rank": 4, "dropout": 1.0}, "lora.dropout"),
        ({"targets": ("q",)}, "lora.rank=0"),
    ],
)
def test_wrong_values_are_refused(values, words):
    with pytest.raises(InputError, match=words):
        LoRAConfig(**values)


def test_without_peft_the_extra_is_named(monkeypatch):
    known = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "peft":
            raise ImportError(name)
        return known(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"atlas-lm\[lora\]"):
        add_lora(tiny_atlas().reader, LORA, name="reader")
