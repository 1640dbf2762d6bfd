from __future__ import annotations

import math

import pytest
import torch

from atlas_lm.objectives import ObjectiveConfig, make_objective
from atlas_lm.objectives.pooled import foreign, widened_score, widened_signals
from atlas_lm.types import ReaderSignals


def signals():
    """Two queries with two passages each and targets of one and two tokens."""
    mask = torch.tensor([[True, False], [True, True]])
    likelihood = torch.tensor([[[-1.0, 0.0], [-3.0, 0.0]], [[-1.0, -1.0], [-2.0, -4.0]]])
    return ReaderSignals(mask, likelihood, likelihood - 1.0, torch.tensor([[0.2, 0.5], [0.1, 0.4]]))


def test_a_foreign_passage_is_another_querys_and_counts_once():
    known = [["a", "b"], {"b", "c"}]
    expected = [[False, False, False, True], [True, False, False, False]]
    assert foreign(known, ["a", "b", "b", "c"]).tolist() == expected
    assert foreign([["x"]], ["a", "a"]).tolist() == [[True, False]]


@pytest.mark.parametrize("objective", ["pdist", "loop", "adist", "emdr2"])
def test_gold_is_what_it_was_and_the_softmax_runs_over_more(objective):
    made = make_objective(
        ObjectiveConfig(objective=objective, temperature_score=1.0, temperature_gold=0.5)
    )
    score = torch.tensor([[1.0, 2.0], [0.5, 0.0]], requires_grad=True)
    is_foreign = foreign([["a", "b"], ["b", "c"]], ["a", "b", "b", "c"])
    pool = torch.tensor([[9.0, 9.0, 9.0, 0.5], [0.3, 9.0, 9.0, 9.0]])
    wide = widened_score(score, pool, is_foreign)
    more = widened_signals(signals(), 4)
    gold = made.gold_distribution(more)
    torch.testing.assert_close(gold[:, :2], made.gold_distribution(signals()))
    assert torch.equal(gold[:, 2:], torch.zeros(2, 4))
    loss = made.loss(wide, more)
    assert torch.isfinite(loss).all()
    total = math.exp(1.0) + math.exp(2.0) + math.exp(0.5)
    shift = math.log(total) - math.log(math.exp(1.0) + math.exp(2.0))
    narrow = made.loss(score, signals())
    assert loss[0].item() == pytest.approx(narrow[0].item() + shift, rel=1e-5)
    loss.sum().backward()
    assert torch.isfinite(score.grad).all()
    assert all(math.isfinite(value) for value in made.diagnostics(wide.detach(), more).values())
