"""Who learns from what: tiny BERT and T5 with random weights, real text."""

from __future__ import annotations

import pytest
import torch

from atlas_lm.objectives import OBJECTIVES, ObjectiveConfig, make_objective
from atlas_lm.reader.fid import FiDReader
from atlas_lm.retriever import BiEncoder
from atlas_lm.staleness import train_query_side_only
from atlas_lm.types import ReaderSignals
from tests.parity import golden

SWITCHES = [{"objective": name} for name in OBJECTIVES] + [
    {"objective": "emdr2", "emdr2_marginal": "token"}
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("models")
    golden.write_t5(path / "reader")
    golden.write_bert(path / "retriever")
    return path


@pytest.fixture
def reader(directory):
    return FiDReader.from_pretrained(directory / "reader").eval()


@pytest.fixture
def retriever(directory):
    lengths = {"query_maxlength": 80, "passage_maxlength": 80}
    settings = {"pooling": "mean", "similarity": "dot", **lengths}
    return BiEncoder.from_pretrained(directory / "retriever", settings=settings)


@pytest.fixture(params=SWITCHES, ids=lambda values: "-".join(values.values()))
def objective(request):
    return make_objective(
        ObjectiveConfig(temperature_score=0.1, temperature_gold=0.1, **request.param)
    )


def signals_of(reader, objective):
    inputs = reader.collate(golden.golden_queries(), golden.golden_passages())
    return reader.signals(
        inputs,
        golden.golden_targets(),
        frozenset({objective.needs}),
        logit_temperature=objective.logit_temperature,
    )


def score_of(retriever):
    return retriever.score(golden.golden_queries(), golden.golden_passages())


def test_every_retriever_parameter_learns_and_no_reader_parameter(reader, retriever, objective):
    objective.loss(score_of(retriever), signals_of(reader, objective)).sum().backward()
    norms = {name: parameter.grad.norm().item() for name, parameter in retriever.named_parameters()}
    largest = max(norms.values())
    for name, norm in norms.items():
        if name.endswith("attention.self.key.bias"):  # cancels in the softmax over keys
            assert norm < 1e-4 * largest, name
        else:
            assert norm > 1e-6 * largest, name
    assert all(parameter.grad is None for parameter in reader.parameters())


def test_the_gold_carries_no_gradient_even_if_the_signal_does(objective):
    likelihood = -torch.rand(2, 3, 4, requires_grad=True)
    likelihood.retain_grad()
    mass = torch.rand(2, 3, requires_grad=True)
    mask = torch.ones(2, 4, dtype=torch.bool)
    signals = ReaderSignals(mask, likelihood, likelihood, mass)
    score = torch.randn(2, 3, requires_grad=True)
    objective.loss(score, signals).sum().backward()
    assert score.grad is not None
    assert likelihood.grad is None
    assert mass.grad is None


def test_one_step_moves_the_retriever_toward_the_gold_distribution(reader, retriever, objective):
    signals = signals_of(reader, objective)
    optimizer = torch.optim.SGD(retriever.parameters(), lr=1e-4)
    score = score_of(retriever)
    loss = objective.loss(score, signals).mean()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        moved = score_of(retriever)
    assert objective.loss(moved, signals).mean() < loss.detach()
    assert objective.diagnostics(moved, signals)["kl"] < objective.diagnostics(score, signals)["kl"]


def test_training_the_query_side_leaves_passage_embeddings_bit_for_bit(
    reader, retriever, objective
):
    passages = golden.golden_passages()[0]
    before = retriever.embed_corpus(passages)
    train_query_side_only(retriever).train()
    optimizer = torch.optim.AdamW([p for p in retriever.parameters() if p.requires_grad], lr=1e-2)
    asked = retriever.embed_queries(golden.golden_queries()).detach()
    for _ in range(2):
        optimizer.zero_grad()
        objective.loss(score_of(retriever), signals_of(reader, objective)).sum().backward()
        optimizer.step()
    assert torch.equal(retriever.embed_corpus(passages), before)
    assert not torch.equal(retriever.embed_queries(golden.golden_queries()), asked)
    assert all(parameter.grad is None for parameter in retriever.passage_encoder.parameters())
