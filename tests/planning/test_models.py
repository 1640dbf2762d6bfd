from __future__ import annotations

from pathlib import Path

import pytest
from transformers import BertConfig

from atlas_lm.data.tinymodels import tiny_retriever
from atlas_lm.planning import known_names, planned_model
from atlas_lm.planning.counting import parameter_bytes
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.files import write_json
from atlas_lm.runtime.packages import resolve_model_path

KNOWN = {  # parameters, as published
    "t5-small": 60_506_624,
    "t5-base": 222_903_552,
    "t5-large": 737_668_096,
    "t5-3b": 2_851_598_336,
    "t5-11b": 11_307_321_344,
    "t5-v1.1-base": 247_577_856,
    "flan-t5-xl": 2_849_757_184,
    "smollm2-135m": 134_515_008,
}


@pytest.mark.parametrize(("name", "parameters"), KNOWN.items())
def test_parameters_of_known_readers(name, parameters):
    assert parameter_bytes(planned_model(name, "reader").built()) == 4 * parameters


@pytest.mark.parametrize(
    ("spelled", "ours"),
    [
        ("google/t5-v1_1-base", "t5-v1.1-base"),
        ("google/flan-t5-small", "flan-t5-small"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "smollm2-135m"),
        ("T5-Small", "t5-small"),
    ],
)
def test_names_as_others_spell_them(spelled, ours):
    found = planned_model(spelled, "reader").config.to_dict()
    assert found == planned_model(ours, "reader").config.to_dict()


def test_bytes_of_a_directory_are_those_of_its_file():
    place = Path(resolve_model_path("package:atlas-lm/contriever-nano"))
    size = (place / "model.safetensors").stat().st_size
    for name in (str(place), str(place / "config.json"), "contriever-nano"):
        model = planned_model(name, "retriever")
        assert model.dim == 256
        assert 0 < size - parameter_bytes(model.built()) < 4096  # the header


def test_a_retriever_of_two_encoders_and_one_of_sentence_transformers(tmp_path):
    tiny_retriever(["word"], tied=False).save_pretrained(tmp_path / "untied")
    part = tmp_path / "st" / "0_Transformer"
    BertConfig(hidden_size=24).save_pretrained(part)
    write_json(
        part.parent / "modules.json",
        [
            {"type": "models.Transformer", "path": "0_Transformer"},
            {"type": "models.Pooling", "path": "1_Pooling"},
        ],
    )
    write_json(part.parent / "1_Pooling" / "config.json", {"pooling_mode": "mean"})
    for name, dim in (("untied", 64), ("st", 24)):
        assert planned_model(str(tmp_path / name), "retriever").dim == dim


def test_unknown_names_are_errors(tmp_path):
    with pytest.raises(InputError, match="did you mean 't5-small'"):
        planned_model("t5-smal", "reader")
    with pytest.raises(InputError, match="one of: bert-base"):
        planned_model("nothing like it", "retriever")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"no readable config\.json"):
        planned_model(str(tmp_path), "reader")


def test_every_known_name_can_be_built():
    for name in known_names("retriever"):
        assert parameter_bytes(planned_model(name, "retriever").built()) > 0
