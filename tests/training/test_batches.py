import pytest

from atlas_lm.runtime.errors import InputError
from atlas_lm.training import batches
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
