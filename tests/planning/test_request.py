from __future__ import annotations

import pytest

from atlas_lm.planning import parse_bytes, parse_count
from atlas_lm.runtime.errors import InputError
from tests.planning.small import request


@pytest.mark.parametrize(
    ("text", "count"),
    [("37M", 37_000_000), ("1.5B", 1_500_000_000), ("250_000", 250_000), ("7", 7)],
)
def test_counts(text, count):
    assert parse_count(text) == count


@pytest.mark.parametrize(
    ("text", "size"),
    [("64GB", 64 * 10**9), ("80GiB", 80 * 2**30), ("1.5 TB", 1_500_000_000_000), ("512", 512)],
)
def test_sizes(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "many", "3X", "-4", "0", "1.23456"])
def test_other_counts_are_errors(text):
    with pytest.raises(InputError, match="give a count"):
        parse_count(text)


@pytest.mark.parametrize("text", ["", "big", "3XB", "0"])
def test_other_sizes_are_errors(text):
    with pytest.raises(InputError, match="give a size"):
        parse_bytes(text)


def test_shares():
    asked = request(passages=10, world=4, machines=3)
    assert asked.rows_of_rank == 3
    assert asked.ranks_of_machine == 2


@pytest.mark.parametrize("fields", [{"n_context": 0}, {"passages": 0}, {"world": 2, "machines": 3}])
def test_impossible_requests_are_errors(fields):
    with pytest.raises(InputError, match="at least"):
        request(**fields)
