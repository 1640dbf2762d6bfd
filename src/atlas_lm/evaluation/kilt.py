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
    """Return the share of the distinct provenance sets that are complete among ``k`` points.

    A page of no set is one point of the ranking. A set of which a page was found, complete or not,
    is one point too, where the last of its found pages stands.

    Raises:
        ValueError: there is no provenance set.
    """
    sets = list(dict.fromkeys(map(frozenset, provenance)))
    if not sets:
        raise ValueError("recall is undefined without provenance")
    place = {page: rank for rank, page in enumerate(pages)}
    points = [(place[page], False) for page in pages if not any(page in gold for gold in sets)]
    for gold in sets:
        if found := [place[page] for page in gold if page in place]:
            points.append((max(found), len(found) == len(gold)))
    points.sort(key=lambda point: point[0])
    return sum(complete for _, complete in points[:k]) / len(sets)
