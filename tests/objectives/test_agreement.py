import pytest
import torch

from atlas_lm.objectives import agreement
from atlas_lm.objectives.agreement import mean_ranks, spearman


def test_ties_share_their_mean_rank():
    assert mean_ranks(torch.tensor([[3.0, 1.0, 3.0, 2.0]])).tolist() == [[2.5, 0.0, 2.5, 1.0]]


def test_spearman_by_hand():
    # ranks (0 1 2 3) against (1 0 2 3): 1 - 6·2 / (4·15) = 0.8
    first = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    second = torch.tensor([[20.0, 10.0, 30.0, 40.0]])
    assert spearman(first, second).item() == pytest.approx(0.8)
    assert spearman(first, -first).item() == pytest.approx(-1.0)
    assert spearman(first, torch.ones(1, 4)).isnan().all()


def test_agreement_averages_queries_where_both_sides_vary():
    pdist = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    loop = torch.tensor([[3.0, 2.0, 1.0], [5.0, 5.0, 5.0]])
    answers = torch.tensor([[False, False, True], [False, False, False]])
    found = agreement({"pdist": pdist, "loop": loop}, answers)
    assert found["between"] == {"pdist~loop": pytest.approx(-1.0)}
    # ranks (0 1 2) against (0.5 0.5 2): 1.5 / (√2 · √1.5)
    assert found["answer_bearing"]["pdist"] == pytest.approx(1.5 / 3**0.5)
    assert found["answer_bearing"]["loop"] == pytest.approx(-1.5 / 3**0.5)


def test_nothing_to_compare_is_none():
    flat = torch.zeros(2, 3)
    found = agreement({"pdist": flat, "loop": flat}, torch.zeros(2, 3, dtype=torch.bool))
    assert found == {
        "between": {"pdist~loop": None},
        "answer_bearing": {"pdist": None, "loop": None},
    }
    assert agreement({"pdist": flat})["answer_bearing"] == {}
