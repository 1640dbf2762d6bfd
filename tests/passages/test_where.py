from __future__ import annotations

import pytest

from atlas_lm.passages.dates import first_day, last_day, valid_on
from atlas_lm.passages.where import Where
from atlas_lm.runtime.errors import InputError
from atlas_lm.types import Passage

HR = Passage(
    "a1",
    "Leave is 30 days.",
    "Leave",
    "Rules",
    {"source": "hr", "year": 2021, "by": {"name": "Jo"}},
)
BARE = Passage("b2", "Nothing known.")


@pytest.mark.parametrize(
    ("condition", "hr", "bare"),
    [
        ('source == "hr" and year >= 2020', True, False),
        ('source == "hr" or id == "b2"', True, True),
        ('source != "hr"', False, True),
        ("not year > 2021", True, True),
        ("2019 <= year < 2021", False, False),
        ("2019 <= year <= 2021", True, False),
        ('source in ["it", "hr"]', True, False),
        ('source not in ("it", "hr")', False, True),
        ('"day" in text', True, False),
        ('"day" in source', False, False),
        ("exists(year)", True, False),
        ("exists(title) and not exists(nothing)", True, False),
        ('startswith(lower(title), "lea") and endswith(id, "1")', True, False),
        ('by.name == "Jo"', True, False),
        ('field("by.name") == "Jo"', True, False),
        ("year == null", False, True),
        ("year > -1", True, False),
        ("source", True, False),
    ],
)
def test_conditions(condition, hr, bare):
    where = Where.parse(condition)
    assert (where.allows(HR), where.allows(BARE)) == (hr, bare)


def test_fields_are_known():
    assert Where.parse('a == 1 and b.c in ["x"] and field("d e")').fields == {"a", "b.c", "d e"}


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("source = 'hr'", r"at character \d+ \(to compare, write ==\); write a condition such as"),
        ("source ==", "invalid syntax at character"),
        ("", "invalid syntax"),
        ("1 == 1", "names no field"),
        ("__import__('os').system('true') == 0", "not allowed; use fields"),
        ("().__class__.__bases__ == 1", "not allowed"),
        ("source.upper() == 'HR'", r"'source\.upper\(\)' is not allowed"),
        ("[x for x in source]", "not allowed"),
        ("(lambda: source)()", "not allowed"),
        ("year + 1 == 2", "'year \\+ 1' is not allowed"),
        ("year ** 9 ** 9", "not allowed"),
        ("source is None", "not allowed"),
        ("f'{source}' == 'x'", "not allowed"),
        ("lower(source, 2) == 'x'", "not allowed"),
        ("(" * 300 + "a" + ")" * 300, "too many nested parentheses"),
        ("a == 1 or " * 2000 + "a", "longer than 10000 characters"),
    ],
)
def test_what_is_not_a_condition(condition, message):
    with pytest.raises(InputError, match=message):
        Where.parse(condition)


@pytest.mark.parametrize(
    ("date", "first", "last"),
    [
        ("2019", "2019-01-01", "2019-12-31"),
        (2019, "2019-01-01", "2019-12-31"),
        ("2019-02", "2019-02-01", "2019-02-28"),
        ("2020-02", "2020-02-01", "2020-02-29"),
        ("2019-06-15", "2019-06-15", "2019-06-15"),
        ("2019-06-15T23:59:00Z", "2019-06-15", "2019-06-15"),
    ],
)
def test_dates(date, first, last):
    assert (first_day(date), last_day(date)) == (first, last)


@pytest.mark.parametrize("date", ["June 2019", "2019-13", "2019-02-30", "19", "", "2019-00", True])
def test_what_is_no_date(date):
    with pytest.raises(ValueError, match="is no date"):
        first_day(date)


@pytest.mark.parametrize(
    ("valid", "as_of", "expected"),
    [
        ({}, "2019", True),
        ({"valid_from": "2019-06-15"}, "2019-06", True),
        ({"valid_from": "2019-06-15"}, "2019-06-14", False),
        ({"valid_to": "2019-06-15"}, "2019-06", False),
        ({"valid_to": "2019-06-15"}, "2019-06-15", True),
        ({"valid_to": "2019-06"}, "2019-06-30", True),
        ({"valid_from": 2018, "valid_to": 2019}, "2019", True),
        ({"valid_from": 2018, "valid_to": 2019}, "2020-01", False),
        ({"valid_from": "2018", "valid_to": None}, "2031", True),
    ],
)
def test_validity(valid, as_of, expected):
    assert valid_on(as_of)(Passage("x", "t", metadata=valid)) is expected


def test_as_of_must_be_a_date():
    with pytest.raises(InputError, match=r"as of 'yesterday': .* write a date as 2019, 2019-06"):
        valid_on("yesterday")
