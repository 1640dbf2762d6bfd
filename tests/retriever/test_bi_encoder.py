from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer

from atlas_lm.index.files import Fingerprint
from atlas_lm.retriever import BiEncoder
from atlas_lm.runtime.errors import InputError
from atlas_lm.types import Passage
from tests.parity.golden import golden_passages, golden_queries
from tests.retriever.conftest import DOT

QUERIES, PASSAGES = golden_queries(), golden_passages()


def snapshot(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(module: torch.nn.Module, before: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def take_steps(encoder: BiEncoder, steps: int = 2) -> None:
    encoder.train()
    parameters = [p for p in encoder.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        encoder.score(QUERIES, PASSAGES).log_softmax(-1)[:, 0].sum().neg().backward()
        optimizer.step()


def test_scores_are_scaled_inner_products_of_single_embeddings(encoder: BiEncoder) -> None:
    scores = encoder.score(QUERIES, PASSAGES)
    for row, query in enumerate(QUERIES):
        for column, passage in enumerate(PASSAGES[row]):
            product = encoder.embed_queries([query])[0] @ encoder.embed_passages([passage])[0]
            torch.testing.assert_close(scores[row, column], product / 64**0.5)


def test_cosine_scores_are_cosines(plain_dir: Path) -> None:
    dot = BiEncoder.from_pretrained(plain_dir, settings=DOT)
    cosine = BiEncoder.from_pretrained(
        plain_dir, settings=dataclasses.replace(DOT, similarity="cosine")
    )
    expected = F.cosine_similarity(
        dot.embed_queries(QUERIES)[:, None],
        torch.stack([dot.embed_passages(row) for row in PASSAGES]),
        dim=-1,
    )
    torch.testing.assert_close(cosine(QUERIES, PASSAGES), expected)


def test_a_passage_given_twice_scores_the_same_and_its_gradients_add_up(
    encoder: BiEncoder,
) -> None:
    passage, other = PASSAGES[0][0], PASSAGES[0][1]
    scores = encoder.score(QUERIES[:1], [[passage, other, dataclasses.replace(passage, id="x")]])
    assert scores[0, 0] == scores[0, 2]
    scores.sum().backward()
    weight = encoder.query_encoder.embeddings.word_embeddings.weight
    both = weight.grad.clone()
    weight.grad = None
    single = encoder.score(QUERIES[:1], [[passage, other]])
    (2 * single[0, 0] + single[0, 1]).backward()
    torch.testing.assert_close(weight.grad, both, atol=1e-5, rtol=1e-4)


def test_ragged_rows_are_refused_and_empty_ones_score_nothing(encoder: BiEncoder) -> None:
    with pytest.raises(InputError, match="give every query the same number"):
        encoder.score(QUERIES, [PASSAGES[0], PASSAGES[1][:2]])
    assert encoder.score(QUERIES, [[], []]).shape == (2, 0)


def test_prompts_and_templates_reach_the_encoder(plain_dir: Path) -> None:
    settings = dataclasses.replace(
        DOT,
        query_prompt="query: ",
        passage_prompt="passage: ",
        passage_template="{title}. {text}",
        lowercase=True,
    )
    prompted = BiEncoder.from_pretrained(plain_dir, settings=settings)
    plain = BiEncoder.from_pretrained(plain_dir, settings=DOT)
    passage = Passage(id="p", title="Barn", text="The Cat")
    assert prompted.passage_text(passage) == "passage: barn. the cat"
    assert torch.equal(
        prompted.embed_passages([passage]),
        plain.embed_passages([Passage(id="p", text="passage: barn. the cat")]),
    )
    assert torch.equal(prompted.embed_queries(["Cat"]), plain.embed_queries(["query: cat"]))


def test_untied_encoders_are_copies_that_move_apart(encoder: BiEncoder) -> None:
    assert encoder.tied
    assert encoder.passage_encoder is encoder.query_encoder
    before = encoder.score(QUERIES, PASSAGES)
    encoder.untie()
    assert not encoder.tied
    assert torch.equal(encoder.score(QUERIES, PASSAGES), before)
    shared = {p.data_ptr() for p in encoder.query_encoder.parameters()} & {
        p.data_ptr() for p in encoder.passage_encoder.parameters()
    }
    assert not shared
    copy = encoder.passage_encoder
    assert encoder.untie().passage_encoder is copy


def test_query_side_training_leaves_passages_as_they_were_bit_for_bit(encoder: BiEncoder) -> None:
    encoder.set_dropout(0.3)
    encoder.untie().freeze_passage_encoder()
    weights = snapshot(encoder.passage_encoder)
    query_weights = snapshot(encoder.query_encoder)
    embeddings = encoder.embed_corpus(PASSAGES[0])
    fingerprint = encoder.fingerprint("corpus")
    take_steps(encoder)
    assert encoder.query_encoder.training
    assert not any(module.training for module in encoder.passage_encoder.modules())
    assert same(encoder.passage_encoder, weights)
    assert not same(encoder.query_encoder, query_weights)
    assert torch.equal(encoder.embed_corpus(PASSAGES[0]), embeddings)
    assert torch.equal(encoder.embed_passages(PASSAGES[0]), embeddings)
    assert encoder.fingerprint("corpus") == fingerprint


def test_freezing_tied_encoders_is_refused(encoder: BiEncoder) -> None:
    with pytest.raises(InputError, match=r"tied.*call untie\(\) first"):
        encoder.freeze_passage_encoder()


def test_training_moves_the_fingerprint_and_so_does_every_setting(
    encoder: BiEncoder, plain_dir: Path
) -> None:
    before = encoder.fingerprint("corpus")
    assert set(before) == {
        "encoder", "template", "pooling", "similarity", "max_length", "dim", "corpus"
    }  # fmt: skip
    changes = [
        {"pooling": "cls"},
        {"similarity": "cosine"},
        {"normalize": True},
        {"passage_template": "{text}"},
        {"passage_prompt": "passage: "},
        {"passage_maxlength": 40},
        {"lowercase": True},
        {"reference_layernorm": True},
    ]
    for change in changes:
        other = BiEncoder.from_pretrained(plain_dir, settings=dataclasses.replace(DOT, **change))
        assert other.fingerprint("corpus") != before, change
    query_side = dataclasses.replace(DOT, query_prompt="q: ", query_maxlength=20)
    assert BiEncoder.from_pretrained(plain_dir, settings=query_side).fingerprint("corpus") == before
    take_steps(encoder, steps=1)
    assert encoder.fingerprint("corpus")["encoder"] != before["encoder"]


def changed(plain_dir: Path, name: str, change: Callable[[dict[str, Any]], None]) -> Path:
    """Return a copy of a directory with one JSON file changed in place."""
    path = plain_dir / name
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return plain_dir


def swap_words(tokenizer: dict[str, Any]) -> None:
    vocabulary = tokenizer["model"]["vocab"]
    one, other = sorted(word for word in vocabulary if word.isalpha())[:2]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]


READ_OTHERWISE: dict[str, tuple[str, Callable[[dict[str, Any]], None]]] = {
    "vocabulary": ("tokenizer.json", swap_words),
    "case": ("tokenizer.json", lambda file: file["normalizer"].update(lowercase=False)),
    "special tokens": ("tokenizer.json", lambda file: file.update(post_processor=None)),
    "truncation": ("tokenizer_config.json", lambda file: file.update(truncation_side="left")),
    "heads": ("config.json", lambda file: file.update(num_attention_heads=1)),
    "activation": ("config.json", lambda file: file.update(hidden_act="relu")),
    "epsilon": ("config.json", lambda file: file.update(layer_norm_eps=0.1)),
}


@pytest.mark.parametrize("what", READ_OTHERWISE)
def test_the_same_weights_read_otherwise_are_another_encoder(
    encoder: BiEncoder, plain_dir: Path, tmp_path: Path, what: str
) -> None:
    copy = shutil.copytree(plain_dir, tmp_path / "copy")
    other = BiEncoder.from_pretrained(changed(copy, *READ_OTHERWISE[what]), settings=DOT)
    ours, theirs = encoder.fingerprint("c"), other.fingerprint("c")
    assert ours["encoder"].split("-")[0] == theirs["encoder"].split("-")[0]
    with pytest.raises(InputError, match="weights are the same, its tokenizer or config"):
        Fingerprint(**ours).check(Fingerprint(**theirs))
    known_by_weights = Fingerprint(**{**ours, "encoder": ours["encoder"].split("-")[0]})
    known_by_weights.check(Fingerprint(**theirs))


def test_what_leaves_vectors_as_they_are_is_the_same_encoder(
    encoder: BiEncoder, plain_dir: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(plain_dir, tmp_path / "copy")
    harmless = {"transformers_version": "4.0", "hidden_dropout_prob": 0.3, "a_later_field": False}
    changed(copy, "config.json", lambda file: file.update(harmless))
    changed(copy, "tokenizer_config.json", lambda file: file.update(padding_side="left"))
    other = BiEncoder.from_pretrained(copy, settings=DOT)
    assert other.fingerprint("c") == encoder.fingerprint("c")


@pytest.mark.parametrize("tied", [True, False])
def test_saved_and_opened_again_it_is_the_same(
    encoder: BiEncoder, tmp_path: Path, tied: bool
) -> None:
    encoder.settings = dataclasses.replace(
        DOT, pooling="sqrt", query_prompt="q: ", passage_maxlength=33
    )
    if not tied:
        encoder.untie()
    take_steps(encoder, steps=1)
    encoder.eval().save_pretrained(tmp_path / "saved")
    opened = BiEncoder.from_pretrained(tmp_path / "saved")
    assert opened.tied is tied
    assert opened.settings == encoder.settings
    assert not opened.training
    assert torch.equal(opened.score(QUERIES, PASSAGES), encoder.score(QUERIES, PASSAGES))
    assert opened.fingerprint("c") == encoder.fingerprint("c")
    for part in [""] if tied else ["query", "passage"]:
        plain = AutoModel.from_pretrained(tmp_path / "saved" / part, add_pooling_layer=False)
        AutoTokenizer.from_pretrained(tmp_path / "saved" / part)
        tower = encoder.passage_encoder if part == "passage" else encoder.query_encoder
        assert same(plain, snapshot(tower))


def test_a_frozen_copy_is_saved_beside_the_trained_one(encoder: BiEncoder, tmp_path: Path) -> None:
    encoder.untie().freeze_passage_encoder()
    weights = snapshot(encoder.passage_encoder)
    take_steps(encoder)
    encoder.save_pretrained(tmp_path / "saved")
    opened = BiEncoder.from_pretrained(tmp_path / "saved")
    assert same(opened.passage_encoder, weights)
    assert not same(opened.query_encoder, weights)
    with pytest.raises(InputError, match="two encoders"):
        BiEncoder.from_pretrained(tmp_path / "saved", tied=True)


def test_saving_replaces_its_own_directory_and_no_other(encoder: BiEncoder, tmp_path: Path) -> None:
    encoder.untie().save_pretrained(tmp_path / "saved")
    BiEncoder.from_pretrained(tmp_path / "saved" / "query", settings=DOT).save_pretrained(
        tmp_path / "saved"
    )
    assert not (tmp_path / "saved" / "query").exists()
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("text")
    with pytest.raises(InputError, match="no saved bi-encoder"):
        encoder.save_pretrained(tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "text"


def test_dropout_is_off_by_config_and_on_by_switch(encoder: BiEncoder) -> None:
    def draw() -> torch.Tensor:
        return encoder.train().score(QUERIES, PASSAGES).detach()

    assert torch.equal(draw(), draw())
    encoder.set_dropout(0.5)
    assert not torch.equal(draw(), draw())
    encoder.set_dropout(0.0)
    assert torch.equal(draw(), encoder.eval().score(QUERIES, PASSAGES).detach())


def test_checkpointing_changes_no_gradient(encoder: BiEncoder) -> None:
    layer, calls = encoder.query_encoder.encoder.layer[0], []
    # Below the layer: what is recomputed is its forward, without its own hooks.
    layer.attention.register_forward_pre_hook(lambda *_: calls.append(1))

    def gradient() -> torch.Tensor:
        encoder.zero_grad()
        calls.clear()
        encoder.train().score(QUERIES, PASSAGES).sum().backward()
        return layer.output.dense.weight.grad.clone()

    expected, once = gradient(), len(calls)
    encoder.enable_gradient_checkpointing()
    torch.testing.assert_close(gradient(), expected)
    assert len(calls) == 2 * once
    encoder.enable_gradient_checkpointing(enabled=False)
    gradient()
    assert len(calls) == once


def test_two_directories_make_two_towers(plain_dir: Path) -> None:
    encoder = BiEncoder.from_pretrained(plain_dir, settings=DOT, passage=plain_dir)
    assert not encoder.tied
    assert BiEncoder.from_pretrained(plain_dir, settings=DOT, tied=False).tied is False
