from __future__ import annotations

from pathlib import Path

import torch

from tests.parity.golden import (
    assert_golden,
    bert_tokenizer,
    golden_targets,
    load_bert,
    load_golden,
    load_t5,
    t5_tokenizer,
)


def test_decoded_json_and_tensors() -> None:
    golden = load_golden()
    assert golden["config"]["bert"]["hidden_size"] == 64
    assert len(golden["batch/strings"]["queries"]) == 2
    assert golden["retriever/score"].shape == (2, 5)
    assert golden["meta"]["options"]["text_maxlength"] == 80


def test_tokenizers_give_the_golden_ids() -> None:
    golden = load_golden()
    labels = t5_tokenizer()(
        [target + "</s>" for target in golden_targets()],
        add_special_tokens=False,
        padding="max_length",
        max_length=12,
        truncation=True,
        return_tensors="pt",
    )
    expected = golden["batch/labels"]
    assert torch.equal(labels["input_ids"][expected != -100], expected[expected != -100])
    queries = bert_tokenizer()(
        golden["batch/strings"]["queries"], padding="max_length", max_length=80, return_tensors="pt"
    )
    assert torch.equal(queries["input_ids"], golden["batch/query_ids"])
    assert torch.equal(queries["attention_mask"], golden["batch/query_mask"])


def test_models_open(tmp_path: Path) -> None:
    golden = load_golden()
    reader = load_t5(tmp_path / "t5")
    ids, mask = golden["batch/reader_ids"], golden["batch/reader_mask"]
    with torch.no_grad():
        hidden = reader.encoder(
            input_ids=ids.flatten(0, 1), attention_mask=mask.flatten(0, 1)
        ).last_hidden_state
    hidden = hidden.view(2, 400, 64)
    real = mask.view(2, 400, 1).bool()
    assert_golden(
        torch.where(real, hidden, golden["t5_v11/encoder_last_hidden"]),
        "t5_v11/encoder_last_hidden",
    )
    assert load_bert(tmp_path / "bert").config.hidden_size == 64
