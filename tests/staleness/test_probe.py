import torch

from atlas_lm.staleness.probe import Probe
from atlas_lm.staleness.recent import RecentQueries

from .world import Retriever, live_index


def probe(live, passages=8, **options):
    recent = RecentQueries()
    recent.add(["1", "2", "3"])
    return Probe(live, recent, passages=passages, topk=3, **{"seed": 0, **options})


def test_the_sample_is_fixed_by_the_seed():
    live = live_index(Retriever())
    assert probe(live).rows == probe(live).rows
    assert probe(live).rows != probe(live, seed=1).rows
    assert len(set(probe(live).rows)) == 8


def test_more_passages_than_there_are_is_all_of_them():
    assert probe(live_index(Retriever()), passages=50).rows == list(range(20))


def test_a_filter_leaves_what_can_be_found():
    live = live_index(Retriever(), allowed_rows=torch.arange(20) < 3)
    assert probe(live).rows == [0, 1, 2]
    assert probe(live).measure().topk_overlap == 1


def test_drift_grows_as_the_retriever_moves_and_goes_with_a_refresh():
    retriever = Retriever()
    live = live_index(retriever, torch.float16)
    sample = probe(live, passages=20)
    unmoved = sample.measure()
    assert unmoved.drift < 1e-6
    assert unmoved.topk_overlap == 1
    retriever.move_(0.3)
    little = sample.measure()
    retriever.move_(2.0, seed=2)
    much = sample.measure()
    assert unmoved.drift < little.drift < much.drift
    assert much.topk_overlap < 1
    live.renew(range(20), 1)
    assert sample.measure().drift < 1e-6
    assert sample.embedded == 4 * 20


def test_measuring_leaves_the_mode_and_the_generators_alone():
    retriever = Retriever().train()
    before = torch.get_rng_state()
    probe(live_index(retriever)).measure()
    assert retriever.training
    assert torch.equal(torch.get_rng_state(), before)
