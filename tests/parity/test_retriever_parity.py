from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from atlas_lm.retriever import BiEncoder, EncoderSettings
from atlas_lm.retriever.pooling import POOLINGS
from tests.parity.golden import (
    assert_golden,
    golden_passages,
    golden_queries,
    load_golden,
    write_bert,
)

CONTRIEVER = EncoderSettings(
    pooling="mean",
    similarity="dot",
    query_maxlength=80,
    passage_maxlength=80,
    reference_layernorm=True,
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bert(tmp_path_factory.mktemp("golden") / "bert")


@pytest.fixture(scope="module")
def contriever(directory: Path) -> BiEncoder:
    return BiEncoder.from_pretrained(directory, settings=CONTRIEVER)


def test_embeddings(contriever: BiEncoder) -> None:
    query_emb = contriever.embed_queries(golden_queries())
    assert_golden(query_emb, "retriever/query_emb", rtol=1e-6)
    passage_emb = torch.stack([contriever.embed_passages(row) for row in golden_passages()])
    assert_golden(passage_emb, "retriever/passage_emb", rtol=1e-6)
    raw = torch.einsum("qd,qkd->qk", query_emb, passage_emb)
    assert_golden(raw, "retriever/score_raw", rtol=1e-6)


def test_scores(contriever: BiEncoder) -> None:
    score = contriever.score(golden_queries(), golden_passages())
    assert_golden(score, "retriever/score", rtol=1e-6)


def test_the_switch_is_needed_and_is_saved(
    contriever: BiEncoder, directory: Path, tmp_path: Path
) -> None:
    stock = BiEncoder.from_pretrained(
        directory, settings=dataclasses.replace(CONTRIEVER, reference_layernorm=False)
    )
    score = stock.score(golden_queries(), golden_passages())
    golden = load_golden()["retriever/score"]
    assert (score - golden).abs().max() / golden.abs().max() > 1e-3
    contriever.save_pretrained(tmp_path / "saved")
    opened = BiEncoder.from_pretrained(tmp_path / "saved")
    assert_golden(opened.score(golden_queries(), golden_passages()), "retriever/score", rtol=1e-6)


def test_last_hidden(contriever: BiEncoder) -> None:
    golden = load_golden()
    ids, mask = golden["batch/query_ids"], golden["batch/query_mask"]
    with torch.no_grad():
        hidden = contriever.query_encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    real = mask.bool()[..., None]
    at_pads = golden["retriever/last_hidden"]
    assert_golden(torch.where(real, hidden, at_pads), "retriever/last_hidden", rtol=1e-5)


@pytest.mark.parametrize(
    ("pooling", "name"), [("mean", "average"), ("sqrt", "sqrt"), ("cls", "cls")]
)
@pytest.mark.parametrize("normalize", [False, True])
def test_poolings(directory: Path, pooling: str, name: str, normalize: bool) -> None:
    settings = dataclasses.replace(CONTRIEVER, pooling=pooling, normalize=normalize)
    encoder = BiEncoder.from_pretrained(directory, settings=settings)
    key = f"retriever/pool/{name}{'_norm' if normalize else ''}"
    assert_golden(encoder.embed_queries(golden_queries()), key, rtol=1e-6)
    golden = load_golden()
    pooled = POOLINGS[pooling](golden["retriever/last_hidden"], golden["batch/query_mask"].bool())
    assert_golden(F.normalize(pooled, dim=-1) if normalize else pooled, key, rtol=1e-6)


def test_index_embeddings_of_the_original_are_cut_short(directory: Path) -> None:
    # Made by a float16 copy of the encoder, hence the tolerance; and cut to 64 tokens, the size of
    # its embedding batches, although 80 were asked for. Here the index has the length asked for.
    corpus = [passage for row in golden_passages() for passage in row]
    for maxlength, tolerance in ((64, 2e-3), (80, 0.1)):
        settings = dataclasses.replace(CONTRIEVER, passage_maxlength=maxlength)
        embeddings = BiEncoder.from_pretrained(directory, settings=settings).embed_corpus(corpus)
        assert_golden(embeddings.T, "index/embeddings", rtol=tolerance)
    with pytest.raises(AssertionError, match="index/embeddings"):
        assert_golden(embeddings.T, "index/embeddings", rtol=1e-2)
