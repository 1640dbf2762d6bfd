from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, BertConfig

from atlas_lm.reader import ReaderSettings, open_reader
from atlas_lm.reader.fid import FiDReader
from atlas_lm.runtime.errors import InputError
from tests.reader.fid_models import KINDS, TARGETS, batch, saved, tiny_model


@pytest.mark.parametrize("kind", KINDS)
def test_a_directory_from_elsewhere_opens_and_keeps_its_numbers(kind: str, tmp_path: Path) -> None:
    reader = FiDReader.from_pretrained(saved(tmp_path / "model", kind))
    inputs, target = batch(reader)
    plain = FiDReader(tiny_model(kind), reader.tokenizer)
    assert torch.equal(reader.loss(inputs, target).total, plain.loss(inputs, target).total)
    assert reader.settings == ReaderSettings()


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_reader_opens_with_plain_transformers(kind: str, tmp_path: Path) -> None:
    reader = FiDReader.from_pretrained(saved(tmp_path / "model", kind))
    inputs, target = batch(reader)
    reader.save_pretrained(tmp_path / "again")
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "again").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "again")
    assert tokenizer(TARGETS).input_ids == reader.tokenizer(TARGETS).input_ids
    for name, value in reader.model.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    loss = FiDReader(model, tokenizer).loss(inputs, target).total
    assert torch.equal(loss, reader.loss(inputs, target).total)
    assert not list((tmp_path / "again").glob("*.bin"))


def test_an_untied_head_stays_untied(tmp_path: Path) -> None:
    reader = FiDReader.from_pretrained(saved(tmp_path / "model", "t5_v11")).train()
    head, embedding = reader.model.lm_head.weight, reader.model.shared.weight
    before = head.detach().clone(), embedding.detach().clone()
    optimizer = torch.optim.SGD(reader.parameters(), lr=0.1)
    reader.loss(*batch(reader)).mean.backward()
    optimizer.step()
    reader.model.tie_weights()
    assert reader.model.lm_head.weight is head
    assert not torch.equal(head, embedding)
    assert not torch.equal(head - before[0], embedding - before[1])
    reader.save_pretrained(tmp_path / "trained")
    again = FiDReader.from_pretrained(tmp_path / "trained")
    assert torch.equal(again.model.lm_head.weight, head)
    assert torch.equal(again.model.shared.weight, embedding)
    assert again.model.encoder.embed_tokens.weight is again.model.shared.weight
    assert not again.model.config.scale_decoder_outputs
    inputs, target = batch(reader)
    assert torch.equal(again.loss(inputs, target).total, reader.loss(inputs, target).total)


def test_a_tied_head_stays_tied(tmp_path: Path) -> None:
    reader = FiDReader.from_pretrained(saved(tmp_path / "model", "t5"))
    assert reader.model.lm_head.weight is reader.model.shared.weight
    assert reader.model.config.tie_word_embeddings
    assert reader.model.config.scale_decoder_outputs


def test_settings_are_saved_with_the_reader(tmp_path: Path) -> None:
    settings = ReaderSettings(encoder_format="{query} {title} {text}", text_maxlength=99)
    reader = FiDReader.from_pretrained(saved(tmp_path / "model"), settings)
    reader.save_pretrained(tmp_path / "again")
    opened = open_reader(tmp_path / "again")
    assert isinstance(opened, FiDReader)
    assert opened.settings == settings
    assert isinstance(open_reader(tmp_path / "model"), FiDReader)


def test_saving_over_an_older_reader_leaves_nothing_of_it(tmp_path: Path) -> None:
    reader = FiDReader.from_pretrained(saved(tmp_path / "model"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "stale.json").write_text("{}")
    reader.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out" / "stale.json").exists()


def test_what_cannot_be_opened_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"config\.json"):
        FiDReader.from_pretrained(tmp_path / "empty")
    pickled = saved(tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pytorch_model\.bin.*pickled"):
        FiDReader.from_pretrained(pickled)
    (pickled / "pytorch_model.bin").unlink()
    with pytest.raises(InputError, match="no weights"):
        FiDReader.from_pretrained(pickled)
    cut = saved(tmp_path / "cut")
    weights = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(InputError, match="cannot be opened"):
        FiDReader.from_pretrained(cut)
    lacking = saved(tmp_path / "lacking")
    tensors = load_file(lacking / "model.safetensors")
    del tensors["encoder.final_layer_norm.weight"]
    save_file(tensors, lacking / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"encoder\.final_layer_norm\.weight"):
        FiDReader.from_pretrained(lacking)


def test_a_model_of_another_type_is_refused(tmp_path: Path) -> None:
    BertConfig(num_hidden_layers=1).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match=r"'bert'.*t5, mt5, umt5"):
        FiDReader.from_pretrained(tmp_path)


def test_a_directory_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="tokenizer"):
        FiDReader.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"text_maxlenght": 3}, "did you mean 'text_maxlength'"),
        ({"text_maxlength": "3"}, "text_maxlength"),
        ({"text_maxlength": 0}, "at least 1"),
        ({"encoder_format": "{question}"}, "{query}, {title}, {text}"),
        ({"encoder_format": "{query} {title}"}, "encoder_format=.*does not contain {text}"),
        ({"encoder_format_untitled": "{text}"}, "untitled=.*does not contain {query}"),
        ({"kind": "bart"}, "kind"),
        ([], "JSON object"),
    ],
)
def test_wrong_settings_name_the_file_and_the_field(
    values: object, message: str, tmp_path: Path
) -> None:
    (tmp_path / "reader.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"reader\.json.*" + message):
        ReaderSettings.load(tmp_path)
