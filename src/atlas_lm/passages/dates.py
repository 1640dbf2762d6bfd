"""Dates of any precision, and what was valid as of one.

"2019", "2019-06" and "2019-06-15" name a year, a month and a day; a time of day is ignored. A
passage is valid from the first day of its ``valid_from`` to the last day of its ``valid_to``, both
included; without them always. "As of" a date means as of the last day it names.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Callable
from typing import Any

from atlas_lm.runtime.errors import InputError
from atlas_lm.types import Passage

FIELDS = ("valid_from", "valid_to")
_DATE = re.compile(r"(\d{4})(?:-(\d{2})(?:-(\d{2})(?:[T ].*)?)?)?")


def first_day(date: object) -> str:
    """Return the first day that a date names, as YYYY-MM-DD.

    Raises:
        ValueError: it is no date.
    """
    year, month, day = _parts(date)
    return f"{year:04}-{month or 1:02}-{day or 1:02}"


def last_day(date: object) -> str:
    """Return the last day that a date names, as YYYY-MM-DD.

    Raises:
        ValueError: it is no date.
    """
    year, month, day = _parts(date)
    month = month or 12
    return f"{year:04}-{month:02}-{day or calendar.monthrange(year, month)[1]:02}"


def valid_on(as_of: str) -> Callable[[Passage], bool]:
    """Return the test whether a passage is valid as of a date.

    Raises:
        InputError: ``as_of`` is no date. The test raises ValueError where a passage's is none.
    """
    try:
        day = last_day(as_of)
    except ValueError as error:
        raise InputError(
            f"as of {as_of!r}: {error}; write a date as 2019, 2019-06 or 2019-06-15"
        ) from error

    def is_valid(passage: Passage) -> bool:
        start, end = (passage.metadata.get(name) for name in FIELDS)
        began = start in (None, "") or first_day(start) <= day
        return began and (end in (None, "") or day <= last_day(end))

    return is_valid


def _parts(date: Any) -> tuple[int, int, int]:
    match = _DATE.fullmatch(str(date).strip())
    if match is None or isinstance(date, bool):
        raise ValueError(f"{date!r} is no date")
    year, month, day = (int(part or 0) for part in match.groups())
    months = range(1, 13) if match[2] else range(1)
    if year == 0 or month not in months:
        raise ValueError(f"{date!r} is no date")
    if match[3] and not 1 <= day <= calendar.monthrange(year, month)[1]:
        raise ValueError(f"{date!r} is no date")
    return year, month, day
