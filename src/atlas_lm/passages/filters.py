"""Which rows of a store satisfy a condition or are valid as of a date.

Every passage is read once for a filter; the answer is kept in the cache directory for each file, so
that the next time, or with a file more, old files are not read again.
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

VERSION = 1
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
    """What one file says to a filter."""

    rows: NDArray[np.bool_]
    fields: frozenset[str]
    """Fields of the filter that some passage has."""


def rows_that_pass(store: PassageStore, wanted: Filter) -> NDArray[np.bool_]:
    """Return True for the rows that satisfy the filter.

    Raises:
        InputError: no passage has a field that the filter names (near names are given), values
            cannot be compared, or no live passage satisfies it.
    """
    found, first = [], 0
    for count, fingerprint in zip(store.counts, store.fingerprints, strict=True):
        rows = range(first, first + count)
        found.append(_of_file(store, wanted, rows, _cache_path(fingerprint, wanted)))
        first += count
    _check_fields(store, wanted, frozenset().union(*(one.fields for one in found)))
    passing = np.concatenate([one.rows for one in found])
    alive = passing.copy()
    if store.hidden is not None:
        alive[store.hidden] = False
    if not alive.any():
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
    passing, missing = np.zeros(len(rows), np.bool_), set(named)
    starts = range(rows.start, rows.stop, ROWS_AT_A_TIME)
    for start in track(starts, "Filtering passages"):
        some = range(start, min(start + ROWS_AT_A_TIME, rows.stop))
        for row, passage in zip(some, store.passages(some), strict=True):
            if missing:
                missing -= {name for name in missing if value_of(passage, name) is not MISSING}
            try:
                passing[row - rows.start] = all(test(passage) for test in tests)
            except (TypeError, ValueError) as error:
                raise InputError(f"{store.place(row)}: {_explained(error, wanted)}") from error
    return _Found(passing, frozenset(named) - missing)


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


def _check_fields(store: PassageStore, wanted: Filter, present: frozenset[str]) -> None:
    if wanted.as_of and not present & set(FIELDS):
        raise InputError(
            f"as of {wanted.as_of!r}: no passage has valid_from or valid_to; add them to the "
            "passages or leave the date out"
        )
    if not wanted.where:
        return
    for name in sorted(Where.parse(wanted.where).fields - present - set(OWN_FIELDS)):
        known = _known_fields(store)
        raise InputError(
            f"where {wanted.where!r}: no passage has a field {name!r}"
            f"{did_you_mean(name, known)}; there are {', '.join(known)}"
        )


def _known_fields(store: PassageStore) -> Sequence[str]:
    """Return the fields of the first passages of every file."""
    names: set[str] = set()
    first = 0
    for count in store.counts:
        for passage in store.passages(range(first, first + min(count, 100))):
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
            bits = np.frombuffer(file.read(), np.uint8)
        if header["count"] != count or len(bits) != -(-count // 8):
            return None
        rows = np.unpackbits(bits, count=count).astype(np.bool_)
        return _Found(rows, frozenset(header["fields"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _keep(path: Path, found: _Found) -> None:
    """Write to the cache; one that cannot be written costs time, not the answer."""
    header = {"count": len(found.rows), "fields": sorted(found.fields)}
    try:
        with atomic_path(path) as temporary:
            content = json.dumps(header).encode() + b"\n" + np.packbits(found.rows).tobytes()
            temporary.write_bytes(content)
    except (OSError, DiskFullError):
        return
