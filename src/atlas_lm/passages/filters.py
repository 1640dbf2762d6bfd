"""Which rows of a store satisfy a condition or are valid as of a date.

Every passage is read once for a filter; the answer is kept in the cache directory for each file, so
that the next time, with a file more or other rows dead, old files are not read again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atlas_lm.passages.dates import FIELDS, valid_on
from atlas_lm.passages.store import PassageStore
from atlas_lm.passages.where import MISSING, OWN_FIELDS, Where, value_of
from atlas_lm.runtime.errors import DiskFullError, InputError, did_you_mean
from atlas_lm.runtime.files import atomic_path
from atlas_lm.runtime.logs import track
from atlas_lm.runtime.settings import cache_dir
from atlas_lm.types import Passage

VERSION = 2
ROWS_AT_A_TIME = 4096


@dataclass(frozen=True, kw_only=True)
class Filter:
    """What passages must satisfy to be found."""

    where: str = ""
    """A condition such as 'source == "hr" and year >= 2020'; see `passages.where`."""
    as_of: str = ""
    """A date; only passages valid on it, by valid_from and valid_to, are found."""

    def __post_init__(self) -> None:
        if self.where:
            Where.parse(self.where)
        if self.as_of:
            valid_on(self.as_of)

    def __bool__(self) -> bool:
        return bool(self.where or self.as_of)


@dataclass(frozen=True)
class _Found:
    """What one file says to a filter, dead rows like any other: True or False for every row."""

    passing: NDArray[np.bool_]
    failing: NDArray[np.bool_]
    """Rows with values that cannot be compared."""
    having: dict[str, NDArray[np.bool_]]
    """Rows with each field of the filter."""


def rows_that_pass(store: PassageStore, wanted: Filter) -> NDArray[np.bool_]:
    """Return True for the rows that satisfy the filter.

    Raises:
        InputError: no live passage has a field that the filter names (near names are given), the
            values of one cannot be compared, or none satisfies it.
    """
    alive = np.ones(len(store), np.bool_)
    if store.hidden is not None:
        alive[store.hidden] = False
    found, present, first = [], set[str](), 0
    for count, fingerprint in zip(store.counts, store.fingerprints, strict=True):
        rows = range(first, first + count)
        one = _of_file(store, wanted, rows, _cache_path(fingerprint, wanted))
        live = alive[rows.start : rows.stop]
        if (failing := one.failing & live).any():
            _fail(store, wanted, first + int(failing.argmax()))
        present |= {name for name, having in one.having.items() if (having & live).any()}
        found.append(one.passing)
        first += count
    _check_fields(store, wanted, present, alive)
    passing = np.concatenate(found)
    if not (passing & alive).any():
        raise InputError(f"no passage satisfies {_described(wanted)}; relax it")
    return passing


def _of_file(store: PassageStore, wanted: Filter, rows: range, cache: Path) -> _Found:
    known = _cached(cache, len(rows))
    if known is None:
        known = _read(store, wanted, rows)
        _keep(cache, known)
    return known


def _read(store: PassageStore, wanted: Filter, rows: range) -> _Found:
    tests, named = _tests(wanted)
    passing, failing = np.zeros((2, len(rows)), np.bool_)
    having = {name: np.zeros(len(rows), np.bool_) for name in sorted(named)}
    starts = range(rows.start, rows.stop, ROWS_AT_A_TIME)
    for start in track(starts, "Filtering passages"):
        some = range(start, min(start + ROWS_AT_A_TIME, rows.stop))
        for place, passage in enumerate(store.passages(some), start - rows.start):
            for name, present in having.items():
                present[place] = value_of(passage, name) is not MISSING
            try:
                passing[place] = all(test(passage) for test in tests)
            except (TypeError, ValueError):
                failing[place] = True
    return _Found(passing, failing, having)


def _fail(store: PassageStore, wanted: Filter, row: int) -> None:
    """Raise what is wrong with the values of a row."""
    try:
        all(test(store[row]) for test in _tests(wanted)[0])
    except (TypeError, ValueError) as error:
        raise InputError(f"{store.place(row)}: {_explained(error, wanted)}") from error


def _tests(wanted: Filter) -> tuple[list[Callable[[Passage], bool]], set[str]]:
    tests: list[Callable[[Passage], bool]] = []
    named: set[str] = set()
    if wanted.where:
        condition = Where.parse(wanted.where)
        tests.append(condition.allows)
        named |= condition.fields
    if wanted.as_of:
        tests.append(valid_on(wanted.as_of))
        named |= set(FIELDS)
    return tests, named


def _check_fields(
    store: PassageStore, wanted: Filter, present: set[str], alive: NDArray[np.bool_]
) -> None:
    if wanted.as_of and not present & set(FIELDS):
        raise InputError(
            f"as of {wanted.as_of!r}: no passage has valid_from or valid_to; add them to the "
            "passages or leave the date out"
        )
    if not wanted.where:
        return
    for name in sorted(Where.parse(wanted.where).fields - present - set(OWN_FIELDS)):
        known = _known_fields(store, alive)
        raise InputError(
            f"where {wanted.where!r}: no passage has a field {name!r}"
            f"{did_you_mean(name, known)}; there are {', '.join(known)}"
        )


def _known_fields(store: PassageStore, alive: NDArray[np.bool_]) -> Sequence[str]:
    """Return the fields of the first live passages of every file."""
    names: set[str] = set()
    first = 0
    for count in store.counts:
        for passage in store.passages(first + np.flatnonzero(alive[first : first + count])[:100]):
            names |= set(passage.metadata)
        first += count
    return [*OWN_FIELDS, *sorted(names)]


def _described(wanted: Filter) -> str:
    parts = [f"where {wanted.where!r}"] if wanted.where else []
    parts += [f"as of {wanted.as_of!r}"] if wanted.as_of else []
    return " and ".join(parts)


def _explained(error: Exception, wanted: Filter) -> str:
    if isinstance(error, TypeError):
        return (
            f"where {wanted.where!r}: {error}; compare numbers with numbers and quote what is text"
        )
    return f"{error} in valid_from or valid_to; write 2019, 2019-06 or 2019-06-15"


def _cache_path(fingerprint: str, wanted: Filter) -> Path:
    parts: Iterable[str] = (str(VERSION), fingerprint, wanted.where, wanted.as_of)
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
    return cache_dir() / "filters" / f"{key}.rows"


def _cached(path: Path, count: int) -> _Found | None:
    try:
        with open(path, "rb") as file:
            header = json.loads(file.readline())
            bits = np.frombuffer(file.read(), np.uint8).reshape(2 + len(header["fields"]), -1)
        if header["count"] != count or bits.shape[1] != -(-count // 8):
            return None
        passing, failing, *having = np.unpackbits(bits, axis=1, count=count).astype(np.bool_)
        return _Found(passing, failing, dict(zip(header["fields"], having, strict=True)))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _keep(path: Path, found: _Found) -> None:
    """Write to the cache; one that cannot be written costs time, not the answer."""
    header = {"count": len(found.passing), "fields": list(found.having)}
    bits = np.packbits(np.stack([found.passing, found.failing, *found.having.values()]), axis=1)
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(json.dumps(header).encode() + b"\n" + bits.tobytes())
    except (OSError, DiskFullError):
        return
