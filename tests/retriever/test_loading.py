from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    DPRConfig,
    DPRContextEncoder,
    DPRQuestionEncoder,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5EncoderModel,
)

from atlas_lm.retriever import BiEncoder, EncoderSettings
from atlas_lm.retriever import loading as loading_module
from atlas_lm.retriever.loading import position_limit
from atlas_lm.runtime.errors import InputError
from tests.parity.golden import bert_tokenizer
from tests.retriever.conftest import DOT

CLS = EncoderSettings(pooling="cls", similarity="dot", query_maxlength=32, passage_maxlength=32)
SHAPE = {
    "vocab_size": 1000,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}


@pytest.fixture
def copied(plain_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(plain_dir, tmp_path / "model"))


def test_a_plain_directory_demands_settings(plain_dir: Path) -> None:
    with pytest.raises(InputError, match=r"--pooling mean --similarity dot"):
        BiEncoder.from_pretrained(plain_dir)
    opened = BiEncoder.from_pretrained(
        plain_dir,
        settings={"pooling": "mean", "similarity": "dot", "query_maxlength": 80,
                  "passage_maxlength": 80},
    )  # fmt: skip
    assert opened.settings == DOT


def test_pickled_weights_are_refused(copied: Path) -> None:
    torch.save(load_file(copied / "model.safetensors"), copied / "pytorch_model.bin")
    (copied / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"pickled.*save_pretrained"):
        BiEncoder.from_pretrained(copied, settings=DOT)


def test_missing_weights_are_an_error_and_not_random(copied: Path) -> None:
    state = load_file(copied / "model.safetensors")
    del state["encoder.layer.1.output.dense.weight"]
    save_file(state, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lack 1 and misfit 0.*layer.1.output.dense.weight"):
        BiEncoder.from_pretrained(copied, settings=DOT)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_weights_stored_in_half_precision_are_opened_in_float32(
    plain_dir: Path, tmp_path: Path, stored: torch.dtype
) -> None:
    whole = BiEncoder.from_pretrained(plain_dir, settings=DOT)
    whole.query_encoder.to(stored).save_pretrained(tmp_path)
    whole.query_tokenizer.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == str(stored)[6:]
    opened = BiEncoder.from_pretrained(tmp_path, settings=DOT)
    assert {parameter.dtype for parameter in opened.parameters()} == {torch.float32}


def test_unreadable_directories(copied: Path, tmp_path: Path) -> None:
    (copied / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(InputError, match="not a model that transformers can open"):
        BiEncoder.from_pretrained(copied, settings=DOT)
    (copied / "config.json").write_text("{")
    with pytest.raises(InputError, match="not a model that transformers can open"):
        BiEncoder.from_pretrained(copied, settings=DOT)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no config.json"):
        BiEncoder.from_pretrained(tmp_path / "empty", settings=DOT)


def test_a_hub_id_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(name: str, **_: object) -> str:
        raise OSError(f"no network for {name}\nsecond line")

    monkeypatch.setattr(loading_module, "snapshot_download", unreachable)
    with pytest.raises(InputError, match=r"facebook/contriever: neither .*no network.*package:NAM"):
        BiEncoder.from_pretrained("facebook/contriever", settings=DOT)


def test_a_hub_id_is_opened_from_its_snapshot(
    monkeypatch: pytest.MonkeyPatch, plain_dir: Path
) -> None:
    asked = {}

    def snapshot(name: str, *, allow_patterns: list[str]) -> str:
        asked[name] = allow_patterns
        return str(plain_dir)

    monkeypatch.setattr(loading_module, "snapshot_download", snapshot)
    assert BiEncoder.from_pretrained("facebook/contriever", settings=DOT).dim == 64
    assert not any(".bin" in pattern for pattern in asked["facebook/contriever"])


def test_more_tokens_than_positions_are_refused(plain_dir: Path) -> None:
    with pytest.raises(InputError, match=r"passage_maxlength=200.* at most 128.*-maxlength 128"):
        BiEncoder.from_pretrained(
            plain_dir,
            settings={"pooling": "mean", "similarity": "dot", "query_maxlength": 9,
                      "passage_maxlength": 200},
        )  # fmt: skip


def test_position_limits() -> None:
    assert position_limit(RobertaModel(RobertaConfig(**SHAPE, pad_token_id=1))) == 62
    t5 = T5Config(vocab_size=50, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    assert position_limit(T5EncoderModel(t5)) is None


def test_t5_encoders_open_without_their_decoder(tmp_path: Path) -> None:
    config = T5Config(vocab_size=1000, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    T5EncoderModel(config).save_pretrained(tmp_path)
    bert_tokenizer().save_pretrained(tmp_path)
    encoder = BiEncoder.from_pretrained(tmp_path, settings=DOT)
    assert encoder.embed_queries(["a cat", "the barn and the river"]).shape == (2, 16)


def test_dpr_towers_are_their_own_berts(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = DPRConfig(**SHAPE)
    question, context = DPRQuestionEncoder(config).eval(), DPRContextEncoder(config).eval()
    for name, model in (("question", question), ("context", context)):
        model.save_pretrained(tmp_path / name)
        bert_tokenizer().save_pretrained(tmp_path / name)
    encoder = BiEncoder.from_pretrained(
        tmp_path / "question", passage=tmp_path / "context", settings=CLS
    )
    tokens = bert_tokenizer()(["the cat"], return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        expected = question(**tokens).pooler_output
    torch.testing.assert_close(encoder.embed_queries(["the cat"]).detach(), expected)
    assert not encoder.tied
    encoder.save_pretrained(tmp_path / "saved")
    opened = BiEncoder.from_pretrained(tmp_path / "saved")
    assert torch.equal(opened.embed_queries(["the cat"]), encoder.embed_queries(["the cat"]))
    assert json.loads((tmp_path / "saved/query/config.json").read_text())["model_type"] == "bert"


def test_dpr_with_a_projection_is_refused(tmp_path: Path) -> None:
    DPRQuestionEncoder(DPRConfig(**SHAPE, projection_dim=8)).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="projection_dim=8"):
        BiEncoder.from_pretrained(tmp_path, settings=CLS)


def test_towers_of_different_width_are_refused(plain_dir: Path, tmp_path: Path) -> None:
    from transformers import BertModel

    BertModel(BertConfig(**SHAPE), add_pooling_layer=False).save_pretrained(tmp_path)
    bert_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="64 components, that of passages 32"):
        BiEncoder.from_pretrained(plain_dir, passage=tmp_path, settings=CLS)


def test_a_saved_file_of_another_format_is_refused(copied: Path) -> None:
    settings = {"pooling": "mean", "similarity": "dot"}
    (copied / "bi_encoder.json").write_text(json.dumps({"settings": settings}))
    with pytest.raises(InputError, match=r"bi_encoder.json: expected an object with"):
        BiEncoder.from_pretrained(copied)
    saved = {"format_version": 9, "tied": True, "settings": settings}
    (copied / "bi_encoder.json").write_text(json.dumps(saved))
    with pytest.raises(InputError, match="format_version is 9"):
        BiEncoder.from_pretrained(copied)
