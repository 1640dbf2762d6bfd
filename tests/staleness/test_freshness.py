import pytest
import torch

from atlas_lm.runtime.errors import InputError
from atlas_lm.staleness import AlwaysFresh, StalenessConfig, keep_fresh

from .world import Retriever, live_index


def kept(retriever=None, **config):
    retriever = retriever or Retriever()
    live = live_index(retriever)
    return keep_fresh(live, StalenessConfig(**config), None, topk=3), live


def test_a_log_line_says_how_stale_the_index_is_and_what_it_cost():
    keeper, live = kept(refresh_schedule="4", probe_passages=5)
    keeper.observe(["0", "1"])
    live.encoder.move_()
    assert keeper.measure(3) == {
        "steps_since_refresh": 3,
        "passages_embedded": 0,
        "staleness_drift": pytest.approx(keeper.measure(3)["staleness_drift"]),
        "staleness_topk_overlap": keeper.measure(3)["staleness_topk_overlap"],
        "probe_embedded": 5,
    }
    assert keeper.measure(3)["staleness_drift"] > 0.01
    keeper.prepare(4)
    after = keeper.measure(4)
    assert after["staleness_drift"] < 1e-6
    assert after["steps_since_refresh"] == 0
    assert after["passages_embedded"] == 20


def test_without_a_probe_or_queries_the_rest_is_logged():
    keeper, _ = kept(probe_passages=0)
    assert keeper.measure(2) == {"steps_since_refresh": 2, "passages_embedded": 0}
    keeper, _ = kept()
    assert "staleness_topk_overlap" not in keeper.measure(2)


def test_the_bound_decides_once_the_retriever_has_moved():
    keeper, live = kept(refresh_schedule="drift>0.05", probe_every=2)
    for step in (1, 2):
        keeper.prepare(step)
    assert live.embedded == 0
    live.encoder.move_()
    keeper.prepare(3)
    assert live.embedded == 0, "measured every second step only"
    keeper.prepare(4)
    assert (live.embedded, live.index.step) == (20, 4)


def test_one_measurement_serves_the_log_and_the_trigger():
    keeper, _ = kept(refresh_schedule="drift>1.9", probe_every=1, probe_passages=5)
    keeper.measure(3)
    keeper.prepare(3)
    assert keeper.measure(3)["probe_embedded"] == 5


def test_restored_it_goes_on_as_if_nothing_had_happened():
    options = {
        "refresh_schedule": "1",
        "refresh": "partial",
        "partial": StalenessConfig().partial.__class__(budget=4),
    }
    keeper, live = kept(**options)
    keeper.observe("0123")
    live.encoder.move_()
    keeper.prepare(1)
    keeper.measure(1)
    retriever = Retriever()
    retriever.load_state_dict(live.encoder.state_dict())
    again, other = kept(retriever, **options)
    again.restore(keeper.facts(), keeper.tensors())
    for one in (keeper, again):
        one.observe("56")
        one.prepare(2)
    assert torch.equal(live.index.embeddings, other.index.embeddings)
    assert torch.equal(live.row_steps, other.row_steps)
    assert keeper.facts() == again.facts()
    assert keeper.measure(3) == again.measure(3)


def test_an_index_that_never_changed_is_not_saved():
    keeper, _ = kept()
    assert keeper.tensors() == {}


def test_another_index_is_refused():
    keeper, live = kept()
    live.renew([0], 1)
    other, _ = kept(Retriever(21))
    with pytest.raises(InputError, match=r"\[20, 4\].*\[21, 4\]"):
        other.restore(keeper.facts(), keeper.tensors())


def test_where_passages_never_move_there_is_nothing_to_do():
    keeper = AlwaysFresh(indexed=True)
    keeper.prepare(5)
    keeper.observe(["a"])
    assert keeper.measure(5)["staleness_drift"] == keeper.measure(5)["steps_since_refresh"] == 0
    assert AlwaysFresh().measure(5) == {}
    assert (keeper.facts(), keeper.tensors(), keeper.version) == ({}, {}, 0)
    keeper.close()
    kept()[0].restore(keeper.facts(), {})


def test_a_run_that_refreshed_is_not_resumed_without():
    keeper, live = kept()
    live.renew([0], 1)
    with pytest.raises(InputError, match="refreshed an index"):
        AlwaysFresh().restore(keeper.facts(), keeper.tensors())
