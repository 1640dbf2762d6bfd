"""Whether what should be found is in the corpus at all."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from atlas_lm.evaluation.kilt import PAGE_FIELD
from atlas_lm.model import Atlas
from atlas_lm.passages.store import PassageStore
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.logs import track, warn
from atlas_lm.types import Example

SCANNED = 200_000
"""Corpora of so many passages or fewer are read once for all their pages, larger ones until one of
those sought is met."""


def check_gold(atlas: Atlas, examples: Sequence[Example]) -> None:
    """Hold the gold passages and pages of the examples against the corpus that is searched.

    Where some are missing a warning says how many; their examples count as misses. Of a corpus of
    more than `SCANNED` passages it is only known whether all pages are missing.

    Raises:
        InputError: none is in the corpus, or its passages do not say which page they are of.
    """
    if atlas.store is None or atlas.config.context.passages_from != "index":
        return
    _check_passages(atlas.store, examples)
    _check_pages(atlas.store, examples)


def _check_passages(store: PassageStore, examples: Sequence[Example]) -> None:
    wanted = {gold: example for example in examples for gold in example.gold_passage_ids}
    if not wanted:
        return
    found = {store[row].id for row in store.rows_of(sorted(wanted), missing="skip")}
    _report(
        {gold: example for gold, example in wanted.items() if gold not in found},
        len(wanted),
        "gold_passage_ids",
        store,
    )


def _check_pages(store: PassageStore, examples: Sequence[Example]) -> None:
    wanted = {page: example for example in examples for gold in example.provenance for page in gold}
    if not wanted:
        return
    if PAGE_FIELD not in store[0].metadata:
        raise InputError(
            f"{store.place(0)}: the examples name pages as evidence, but the passage has no "
            f"{PAGE_FIELD}; make passages with atlas-lm prepare wikipedia, or add the field"
        )
    if len(store) > SCANNED:
        missing = {} if _has_any(store, wanted) else wanted
    else:
        pages = set(_pages(store))
        missing = {page: example for page, example in wanted.items() if page not in pages}
    _report(missing, len(wanted), f"provenance {PAGE_FIELD}", store)


def _pages(store: PassageStore) -> Iterator[str]:
    for passage in track(store, "Reading pages", total=len(store)):
        yield str(passage.metadata.get(PAGE_FIELD))


def _has_any(store: PassageStore, pages: Collection[str]) -> bool:
    """Return whether a page is in the corpus, by the ids of ``prepare wikipedia`` or by reading."""
    rows = store.rows_of([f"{page}-1" for page in pages], missing="skip")
    if any(str(store[row].metadata.get(PAGE_FIELD)) in pages for row in rows):
        return True
    return any(page in pages for page in _pages(store))


def _report(missing: dict[str, Example], asked: int, what: str, store: PassageStore) -> None:
    if not missing:
        return
    name, example = next(iter(missing.items()))
    place = ", ".join(map(str, store.paths))
    message = f"{what} {name!r} of example {example.id!r} is not in {place}"
    if len(missing) == asked:
        raise InputError(
            f"{message}, nor is any other; search the corpus that the examples were made for"
        )
    warn(f"{message}, nor are {len(missing) - 1} others of {asked}: they cannot be found")
