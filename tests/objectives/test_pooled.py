from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from atlas_lm.objectives import ObjectiveConfig, make_objective
from atlas_lm.objectives.pooled import foreign, widened_score, widened_signals
from atlas_lm.types import Batch, ReaderSignals
from tests.tinyworld.world import draw, open_run


def signals():
    """Two queries with two passages each and targets of one and two tokens."""
    mask = torch.tensor([[True, False], [True, True]])
    likelihood = torch.tensor([[[-1.0, 0.0], [-3.0, 0.0]], [[-1.0, -1.0], [-2.0, -4.0]]])
    return ReaderSignals(mask, likelihood, likelihood - 1.0, torch.tensor([[0.2, 0.5], [0.1, 0.4]]))


def test_a_foreign_passage_is_another_querys_and_counts_once():
    known = [["a", "b"], {"b", "c"}]
    expected = [[False, False, False, True], [True, False, False, False]]
    assert foreign(known, ["a", "b", "b", "c"], ["A", "B", "B", "C"]).tolist() == expected
    assert foreign([["x"]], ["a", "a"], ["A", "A"]).tolist() == [[True, False]]


def test_copies_of_a_passage_under_other_ids_are_that_passage():
    known = [["a", "b"], ["c", "d", "a"]]
    expected = [[False, False, False, True], [False, True, False, False]]
    assert foreign(known, ["a", "b", "c", "d"], ["A", "B", "A", "D"]).tolist() == expected


@pytest.mark.parametrize("objective", ["pdist", "loop", "adist", "emdr2"])
def test_gold_is_what_it_was_and_the_softmax_runs_over_more(objective):
    made = make_objective(
        ObjectiveConfig(objective=objective, temperature_score=1.0, temperature_gold=0.5)
    )
    score = torch.tensor([[1.0, 2.0], [0.5, 0.0]], requires_grad=True)
    is_foreign = foreign([["a", "b"], ["b", "c"]], *[["a", "b", "b", "c"]] * 2)
    pool = torch.tensor([[9.0, 9.0, 9.0, 0.5], [0.3, 9.0, 9.0, 9.0]])
    wide = widened_score(score, pool, is_foreign)
    more = widened_signals(signals(), 4)
    gold = made.log_gold(more).exp()
    torch.testing.assert_close(gold[:, :2], made.log_gold(signals()).exp())
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


def test_a_text_given_to_two_questions_is_a_negative_of_neither(tmp_path):
    pooled, _ = open_run(draw(tmp_path), "objective.pool_candidates=true")
    config = pooled.config
    given = replace(config.context, passages_from="file", n_context=2, retriever_n_context=2)
    alone = replace(config.objective, pool_candidates=False)
    shared, one, other = pooled.retrieve("who ?", 3).passages[0]
    asked = [
        replace(
            pooled.ask(f"{word} ?").examples[0],
            target="t",
            passages=(replace(shared, id=f"{word}/1"), replace(own, id=f"{word}/2")),
        )
        for word, own in (("who", one), ("what", one), ("where", other))
    ]
    losses = {}
    for name, objective in (("pooled", config.objective), ("alone", alone)):
        atlas = pooled.with_config(replace(config, context=given, objective=objective))
        for questions in (asked[:2], asked):
            with torch.no_grad():
                read = atlas.losses(Batch(tuple(questions)), train_retriever=True)
            losses[name, len(questions)] = read.retriever_total.item()
    assert losses["pooled", 2] == pytest.approx(losses["alone", 2], rel=1e-4)
    assert losses["pooled", 3] > losses["alone", 3] * 1.01
