from collections.abc import Sequence

import pytest

from atlas_lm.runtime import distributed
from atlas_lm.runtime.distributed import World
from atlas_lm.runtime.errors import InputError
from atlas_lm.training import batches
from atlas_lm.training.batches import parts
from atlas_lm.types import Example


def numbered(n):
    return [Example(f"e{number}", "", "") for number in range(n)]


def ids(order, count):
    return [example.id for batch in order.take(count) for example in batch.examples]


def test_every_epoch_has_every_example_once_in_another_order():
    order = batches(numbered(10), bsz=5, seed=0)
    first, second = ids(order, 2), ids(order, 2)
    assert sorted(first) == sorted(second) == sorted(example.id for example in numbered(10))
    assert first != second
    assert order.epoch == 2


def test_a_batch_is_always_full_over_the_seam_of_two_epochs():
    order = batches(numbered(5), bsz=3, seed=0)
    seen = ids(order, 5)
    assert len(seen) == 15
    for epoch in range(3):
        assert sorted(seen[5 * epoch : 5 * epoch + 5]) == ["e0", "e1", "e2", "e3", "e4"]


def test_fewer_examples_than_a_batch():
    assert len(next(batches(numbered(2), bsz=5, seed=0))) == 5


def test_the_seed_decides():
    assert ids(batches(numbered(20), 4, 3), 5) == ids(batches(numbered(20), 4, 3), 5)
    assert ids(batches(numbered(20), 4, 3), 5) != ids(batches(numbered(20), 4, 4), 5)


def test_a_position_is_restored_to_the_very_next_example():
    order = batches(numbered(7), bsz=3, seed=1)
    ids(order, 4)
    state = order.state
    expected = ids(order, 4)
    again = batches(numbered(7), bsz=3, seed=1)
    again.restore(state)
    assert ids(again, 4) == expected


def test_other_examples_are_refused():
    state = batches(numbered(7), bsz=3, seed=1).state
    renamed = [*numbered(6), Example("other", "", "")]
    with pytest.raises(InputError, match="digest"):
        batches(renamed, bsz=3, seed=1).restore(state)


def test_no_examples_is_an_error_not_an_endless_loop():
    with pytest.raises(InputError, match="no training examples"):
        batches([], bsz=3, seed=1)


class Lazy(Sequence):
    """Counts what is read of it."""

    digest = "given"

    def __init__(self, n):
        self.n, self.read = n, []

    def __len__(self):
        return self.n

    def __getitem__(self, place):
        self.read.append(place)
        return Example(f"e{place}", "", "")


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 20])
@pytest.mark.parametrize(("bsz", "count"), [(4, 1), (4, 3), (3, 2), (1, 5)])
def test_processes_share_an_update_without_dropping_or_repeating(size, bsz, count):
    shares = [parts(count, bsz, World(rank=rank, size=size)) for rank in range(size)]
    assert len({len(share) for share in shares}) == 1
    assert [n for share in shares for part in share for n in part.places] == [*range(bsz * count)]
    for share in shares:
        assert len(share) <= 2 * count
        for part in share:
            assert len(part.places) <= bsz
            assert {place // bsz for place in part.places} <= {part.batch}


def test_alone_every_batch_is_whole():
    assert [part.places for part in parts(2, 4, World())] == [range(4), range(4, 8)]


@pytest.mark.parametrize("sizes", [(2,), (3,), (2, 3, 1)])
def test_the_sequence_of_examples_is_the_same_on_any_number_of_processes(monkeypatch, sizes):
    """Also where a run goes on with more or fewer of them."""
    expected = ids(batches(numbered(11), 4, 0), 12)
    state = batches(numbered(11), 4, 0).state
    seen = []
    for step in range(6):
        size = sizes[step % len(sizes)]
        for rank in range(size):
            monkeypatch.setattr(distributed, "world", lambda: World(rank=rank, size=size))  # noqa: B023
            order = batches(numbered(11), 4, 0)
            order.restore(state)
            seen += ids(order, 2)
        state = order.state
    assert seen == expected


def test_a_process_reads_its_own_examples_only(monkeypatch):
    monkeypatch.setattr(distributed, "world", lambda: World(rank=1, size=2))
    source = Lazy(3_000_000)
    order = batches(source, 4, 0)
    order.take(1)
    assert order.state["digest"] == "given"
    assert len(source.read) == 2
