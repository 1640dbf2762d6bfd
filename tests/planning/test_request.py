from __future__ import annotations

import pytest

from atlas_lm.planning import parse_count
from atlas_lm.runtime.errors import InputError
from tests.planning.small import request


@pytest.mark.parametrize(
    ("text", "count"),
    [("37M", 37_000_000), ("1.5B", 1_500_000_000), ("250_000", 250_000), ("7", 7)],
)
def test_counts(text, count):
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["", "many", "3X", "-4", "0", "1.23456"])
def test_other_counts_are_errors(text):
    with pytest.raises(InputError, match="give a count"):
        parse_count(text)


def test_shares():
    asked = request(passages=10, world=4, machines=3)
    assert asked.rows_of_rank == 3
    assert asked.ranks_of_machine == 2


@pytest.mark.parametrize("fields", [{"n_context": 0}, {"passages": 0}, {"world": 2, "machines": 3}])
def test_impossible_requests_are_errors(fields):
    with pytest.raises(InputError, match="at least"):
        request(**fields)
