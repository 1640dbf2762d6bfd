from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, DistilBertConfig, T5Config

from atlas_lm.reader import causal_loading, open_reader
from atlas_lm.reader.causal import CausalReader, CausalSettings
from atlas_lm.runtime.errors import InputError
from atlas_lm.types import Generation

from .causal_toys import PASSAGES, QUERY, TARGET, byte_tokenizer, tiny_llama, toy_reader


def write_gguf(path) -> None:
    """A one-layer Llama with a byte vocabulary, in llama.cpp's names and quantized to 8 bits."""
    vocabulary = byte_tokenizer().get_vocab()
    tokens = [*sorted(vocabulary, key=vocabulary.get), "ab"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(512)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3] + [1] * (len(tokens) - 2))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    shapes = {
        "token_embd": (len(tokens), 32),
        "blk.0.attn_q": (32, 32),
        "blk.0.attn_k": (16, 32),
        "blk.0.attn_v": (16, 32),
        "blk.0.attn_output": (32, 32),
        "blk.0.ffn_gate": (64, 32),
        "blk.0.ffn_up": (64, 32),
        "blk.0.ffn_down": (32, 64),
    }
    random = np.random.default_rng(0)
    for name, shape in shapes.items():
        values = random.normal(size=shape).astype(np.float32)
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(f"{name}.weight", gguf.quantize(values, kind), raw_dtype=kind)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def gguf_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("ATLAS_LM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "model").mkdir()
    write_gguf(tmp_path / "model" / "tiny.gguf")
    return tmp_path / "model"


def test_a_gguf_file_is_converted_once_and_reads_the_same(gguf_directory, monkeypatch):
    reader = CausalReader.from_pretrained(gguf_directory)
    direct = AutoModelForCausalLM.from_pretrained(
        gguf_directory, gguf_file="tiny.gguf", dtype=torch.float32
    )
    ids = torch.arange(2, 40)[None]
    torch.testing.assert_close(reader.model(ids).logits, direct(ids).logits)
    assert reader.generate(reader.collate(QUERY, PASSAGES), Generation(max_new_tokens=2))
    converted = causal_loading.model_directory(gguf_directory)
    monkeypatch.setattr(causal_loading, "AutoTokenizer", None)
    assert causal_loading.model_directory(gguf_directory / "tiny.gguf") == converted
    plain = AutoModelForCausalLM.from_pretrained(converted)
    assert plain.lm_head.weight is plain.get_input_embeddings().weight


def test_a_killed_conversion_leaves_nothing(gguf_directory, monkeypatch):
    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.nn.Module, "load_state_dict", killed)
    with pytest.raises(KeyboardInterrupt):
        CausalReader.from_pretrained(gguf_directory)
    assert not list(gguf_directory.parent.glob("cache/converted/*"))


def test_several_gguf_files_are_refused(gguf_directory):
    (gguf_directory / "other.gguf").write_bytes(b"")
    with pytest.raises(InputError, match="name one of them"):
        CausalReader.from_pretrained(gguf_directory)


def test_a_damaged_gguf_file_is_refused(gguf_directory):
    file = gguf_directory / "tiny.gguf"
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(InputError, match=r"tiny\.gguf: not a GGUF file"):
        CausalReader.from_pretrained(gguf_directory)
    assert not list(gguf_directory.parent.glob("cache/converted/*"))


def test_weights_that_do_not_fill_the_model_are_refused(tmp_path):
    toy_reader().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    whole = file.read_bytes()
    tensors = load_file(file)
    del tensors["model.layers.0.mlp.up_proj.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"1 tensors are missing, model\.layers\.0\.mlp\.up_proj"):
        open_reader(tmp_path)
    tensors["model.layers.0.mlp.up_proj.weight"] = torch.zeros(3, 3)
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(InputError, match="cannot be opened"):
        open_reader(tmp_path)
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot be opened"):
        open_reader(tmp_path)


def test_pickled_weights_are_refused(tmp_path):
    reader = toy_reader()
    reader.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(reader.model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pytorch_model\.bin.*pickled"):
        open_reader(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (DistilBertConfig(n_layers=1, dim=8, n_heads=2, hidden_dim=8), "distilbert is no decoder"),
        (T5Config(num_layers=1), "an encoder-decoder"),
    ],
)
def test_a_model_of_another_kind_is_refused(config, message, tmp_path):
    config.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match=message):
        CausalReader.from_pretrained(tmp_path)


def test_a_save_that_fails_leaves_the_reader_that_was_there(tmp_path, monkeypatch):
    toy_reader(instruction="Old.").save_pretrained(tmp_path / "reader")
    before = {file.name: file.read_bytes() for file in (tmp_path / "reader").iterdir()}
    monkeypatch.setattr(CausalSettings, "save", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        CausalReader(tiny_llama(seed=1), byte_tokenizer()).save_pretrained(tmp_path / "reader")
    assert {file.name: file.read_bytes() for file in (tmp_path / "reader").iterdir()} == before
    assert [file.name for file in tmp_path.iterdir()] == ["reader"]


def test_an_untied_head_stays_untied(tmp_path):
    reader = toy_reader()
    config = tiny_llama().config
    config.tie_word_embeddings = False
    model = AutoModelForCausalLM.from_config(config)
    CausalReader(model, reader.tokenizer, reader.settings).save_pretrained(tmp_path)
    again = CausalReader.from_pretrained(tmp_path)
    assert not torch.equal(again.model.lm_head.weight, again.model.get_input_embeddings().weight)
    inputs = again.collate(QUERY, PASSAGES)
    torch.testing.assert_close(
        again.score(inputs, TARGET),
        CausalReader(model, reader.tokenizer, reader.settings).score(inputs, TARGET),
    )
