import numpy as np
import pytest

from atlas_lm.runtime import shuffle
from atlas_lm.runtime.shuffle import Epochs, Feistel, order_of_epoch


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 100, 257, 1000])
def test_a_feistel_network_is_a_permutation(count):
    for seed, epoch in ((0, 0), (0, 1), (7, 0)):
        order = Feistel(count, seed, epoch)
        assert sorted(order[place] for place in range(count)) == list(range(count))


def test_every_epoch_and_every_seed_has_an_order_of_its_own():
    orders = {
        tuple(Feistel(50, seed, epoch)[place] for place in range(50))
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(orders) == 9


def test_the_order_looks_drawn():
    """Neighbours lie as far apart as in a drawn order: a third of the length, on average."""
    count = 20_000
    order = np.array([Feistel(count, 3, 0)[place] for place in range(0, count)])
    assert np.abs(np.diff(order)).mean() == pytest.approx(count / 3, rel=0.02)
    assert abs(np.corrcoef(np.arange(count), order)[0, 1]) < 0.02


def test_small_data_keeps_the_order_it_always_had():
    """The recorded figures of the quickstart rest on NumPy's permutation of (seed, epoch)."""
    assert shuffle.ENUMERATED == 1_000_000
    assert [int(order_of_epoch(8, 0, 0)[place]) for place in range(8)] == [2, 4, 3, 6, 5, 0, 1, 7]
    expected = np.random.default_rng((3, 2)).permutation(1000)
    assert np.array_equal(order_of_epoch(1000, 3, 2), expected)


def test_large_data_needs_no_memory():
    order = order_of_epoch(10**12, 0, 0)
    assert isinstance(order, Feistel)
    seen = [order[place] for place in range(2000)]
    assert len(set(seen)) == 2000
    assert max(seen) > 9e11
    with pytest.raises(IndexError):
        order[10**12]


def test_the_order_of_an_epoch_is_drawn_once(monkeypatch):
    drawn = []

    def order(count, seed, epoch):
        drawn.append(epoch)
        return order_of_epoch(count, seed, epoch)

    monkeypatch.setattr(shuffle, "order_of_epoch", order)
    epochs = Epochs(5, 3)
    found = [epochs[position] for position in range(10)]
    assert found == [*order_of_epoch(5, 3, 0).tolist(), *order_of_epoch(5, 3, 1).tolist()]
    assert drawn == [0, 1]
