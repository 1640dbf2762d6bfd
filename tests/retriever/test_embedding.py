from __future__ import annotations

import dataclasses

import pytest
import torch

from atlas_lm.retriever import BiEncoder, EmbeddingReport
from atlas_lm.types import Passage

WORDS = ["the", "cat", "sleeps", "in", "an", "old", "barn", "near", "a", "river"]


def passages(count: int) -> list[Passage]:
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(1, 20, (count,), generator=generator).tolist()
    return [
        Passage(id=str(n), title="Cat" * (n % 2), text=" ".join((WORDS * 4)[n % 9 : n % 9 + size]))
        for n, size in enumerate(sizes)
    ]


def test_corpus_order_is_kept_and_batches_change_nothing(encoder: BiEncoder) -> None:
    corpus = passages(40)
    one_by_one = torch.cat([encoder.embed_passages([passage]) for passage in corpus]).detach()
    for batch_tokens in (None, 1, 64, 100_000):
        torch.testing.assert_close(
            encoder.embed_corpus(corpus, batch_tokens=batch_tokens), one_by_one, atol=1e-5, rtol=0
        )


def test_report_counts_padding_and_truncation(encoder: BiEncoder) -> None:
    report = EmbeddingReport()
    corpus = [*passages(60), *[Passage(id="long", text="barn " * 200)] * 2]
    encoder.embed_corpus(corpus, batch_tokens=256, report=report)
    assert (report.texts, report.truncated) == (62, 2)
    assert 0 <= report.padding_waste < 0.06
    assert "2 longer than the limit and cut" in str(report)


def test_chunks_stream_and_their_reports_add_up(encoder: BiEncoder) -> None:
    corpus, report = passages(10), EmbeddingReport()
    chunks = list(encoder.embed_chunks(iter([corpus[:4], corpus[4:]]), report=report))
    assert [len(chunk) for chunk in chunks] == [4, 6]
    torch.testing.assert_close(torch.cat(chunks), encoder.embed_corpus(corpus), atol=1e-5, rtol=0)
    assert report.texts == 10


def test_corpus_embeddings_are_ordinary_tensors_made_in_eval_mode(encoder: BiEncoder) -> None:
    expected = encoder.embed_corpus(passages(3))
    encoder.set_dropout(0.5)
    encoder.train()
    embeddings = encoder.embed_corpus(passages(3))
    assert encoder.training
    assert torch.equal(embeddings, expected)
    assert not embeddings.requires_grad
    assert not embeddings.is_inference()


def test_bfloat16_autocast_gives_float32_close_by(encoder: BiEncoder) -> None:
    exact = encoder.embed_corpus(passages(4))
    rough = encoder.embed_corpus(passages(4), autocast=torch.bfloat16)
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    assert (rough - exact).abs().max() < 0.05 * exact.abs().max()


def test_nothing_embeds_to_nothing(encoder: BiEncoder) -> None:
    assert encoder.embed_corpus([]).shape == (0, 64)
    assert encoder.embed_queries([]).shape == (0, 64)


@pytest.mark.parametrize("unit", [True, False])
def test_unit_length(encoder: BiEncoder, unit: bool) -> None:
    encoder.settings = dataclasses.replace(encoder.settings, normalize=unit)
    norms = encoder.embed_corpus(passages(5)).norm(dim=-1)
    assert torch.allclose(norms, torch.ones(5)) is unit
