"""KILT's measures of provenance, by pages (Petroni et al. 2021, section 5)."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from atlas_lm.types import Passage

PAGE_FIELD = "wikipedia_id"
"""The field of a passage that names its page."""


def ranked_pages(passages: Sequence[Passage]) -> list[str]:
    """Return the pages of ranked passages, best first, each once."""
    pages = (passage.metadata.get(PAGE_FIELD) for passage in passages)
    return list(dict.fromkeys(str(page) for page in pages if page is not None))


def r_precision(pages: Sequence[str], provenance: Sequence[Collection[str]]) -> float:
    """Return r / R: of the R pages of a provenance set the share among the first R; the best set.

    Raises:
        ValueError: there is no provenance set.
    """
    if not provenance:
        raise ValueError("R-precision is undefined without provenance")
    return max(len(set(pages[: len(gold)]) & set(gold)) / len(gold) for gold in provenance)


def page_recall_at_k(pages: Sequence[str], provenance: Sequence[Collection[str]], k: int) -> float:
    """Return the share of the provenance sets that are complete among the first ``k`` pages.

    A set of several pages stands where its last page is; its other pages are taken out of the
    ranking first.
    """
    if not provenance:
        raise ValueError("recall is undefined without provenance")
    place = {page: rank for rank, page in enumerate(pages)}
    last, others = set(), set()
    for gold in provenance:
        if all(page in place for page in gold):
            final = max(gold, key=place.__getitem__)
            last.add(final)
            others |= set(gold) - {final}
    kept = [page for page in pages if page not in others - last][:k]
    seen = set(kept)
    complete = [
        gold
        for gold in provenance
        if all(page in place for page in gold) and max(gold, key=place.__getitem__) in seen
    ]
    return len(complete) / len(provenance)
