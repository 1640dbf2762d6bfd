from __future__ import annotations

import math

import pytest
import torch

from atlas_lm.retriever.info_nce import info_nce

QUERY = torch.tensor([[2.0, 0.0], [1.0, 3.0]])


def test_by_hand():
    # Query 1 scores (2, 0), query 2 scores (1, 3); at τ = 2: (1, 0) and (0.5, 1.5).
    # -log softmax of the own key: log(1 + e^-1) both times.
    loss, metrics = info_nce(QUERY, torch.eye(2), torch.arange(2), temperature=2.0, count=2)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1)))
    assert metrics == {"accuracy": 1.0}


def test_further_keys_are_negatives_by_hand():
    # One query (1, 0); own key (1, 0) scores 1, two queue keys score 0 and -1.
    keys = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    expected = -math.log(math.e / (math.e + 1 + 1 / math.e))
    loss, _ = info_nce(keys[:1], keys, torch.tensor([0]), temperature=1.0, count=1)
    assert loss.item() == pytest.approx(expected)


def test_the_shares_of_two_processes_add_up_to_the_whole():
    keys, own = torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.arange(2)
    whole, found = info_nce(QUERY, keys, own, temperature=1.0, count=2)
    shares = [
        info_nce(QUERY[row, None], keys, own[row, None], temperature=1.0, count=2) for row in own
    ]
    assert sum(loss.item() for loss, _ in shares) == pytest.approx(whole.item())
    assert sum(metrics["accuracy"] for _, metrics in shares) == found["accuracy"] == 0.0


def test_similarities_are_float32_whatever_the_precision():
    query_emb = torch.randn(6, 32, generator=torch.Generator().manual_seed(0))
    key_emb, own = query_emb.roll(1, 0), torch.arange(6)
    exact, _ = info_nce(query_emb, key_emb, own, temperature=0.05, count=6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed, _ = info_nce(query_emb, key_emb, own, temperature=0.05, count=6)
    assert mixed.item() == exact.item()
