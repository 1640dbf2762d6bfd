import pytest
import torch

from atlas_lm.staleness import measure_drift

STALE = torch.tensor([[3.0, 0], [2, 0], [1, 0]])
FRESH = torch.tensor([[0.0, 3], [2, 0], [1, 0]])
QUERY = torch.tensor([[1.0, 0.0]])


def test_by_hand():
    # cosines 0, 1, 1; the query's fresh top 2 is rows 1 and 2, the stale one rows 0 and 1
    drift = measure_drift(QUERY, STALE, FRESH, topk=2)
    assert drift.drift == pytest.approx(1 / 3)
    assert drift.topk_overlap == 0.5


def test_nothing_has_moved():
    drift = measure_drift(QUERY, STALE, STALE, topk=2)
    assert (drift.drift, drift.topk_overlap) == (0, 1)


def test_half_precision_is_no_drift_to_speak_of():
    vectors = torch.randn(100, 32, generator=torch.Generator().manual_seed(0))
    assert measure_drift(QUERY.new_zeros(1, 32), vectors.half(), vectors, topk=5).drift < 1e-6


def test_without_queries_only_the_drift_is_known():
    drift = measure_drift(torch.zeros(0, 2), STALE, FRESH, topk=2)
    assert drift.topk_overlap is None


def test_topk_is_at_most_the_sample():
    assert measure_drift(QUERY, STALE, FRESH, topk=50).topk_overlap == 1
