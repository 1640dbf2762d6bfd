from __future__ import annotations

import torch

from atlas_lm.objectives.control import dealt_out
from atlas_lm.types import ReaderSignals

IDS = [f"q{number}" for number in range(6)]


def signals() -> ReaderSignals:
    likelihood = torch.arange(6 * 8 * 2.0).view(6, 8, 2)
    mask = torch.ones(6, 2, dtype=torch.bool)
    return ReaderSignals(mask, likelihood, None, likelihood.sum(-1))


def test_every_query_keeps_its_values_in_an_order_of_its_own():
    given, dealt = signals(), dealt_out(signals(), IDS)
    assert torch.equal(dealt.attention_mass.sort().values, given.attention_mass)
    orders = dealt.attention_mass.argsort()
    assert len({tuple(order) for order in orders.tolist()}) == 6
    assert dealt.leave_one_out is None


def test_all_signals_of_a_passage_go_the_same_way_every_time_and_in_any_batch():
    dealt = dealt_out(signals(), IDS)
    assert torch.equal(dealt.passage_log_likelihood.sum(-1), dealt.attention_mass)
    given = signals()
    alone = ReaderSignals(given.target_mask[3:4], given.passage_log_likelihood[3:4])
    again = dealt_out(alone, IDS[3:4]).passage_log_likelihood
    assert torch.equal(again, dealt.passage_log_likelihood[3:4])
