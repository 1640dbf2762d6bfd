"""BM25 over a passage store: the baseline that every retriever is held against."""

from __future__ import annotations

import importlib
import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float

from atlas_lm.passages.format import format_passage
from atlas_lm.passages.store import PassageStore
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.extras import library
from atlas_lm.runtime.logs import track

_WORD = re.compile(r"\w+")
_STOP_WORDS = (
    "a an and are as at be but by for if in into is it no not of on or such that the their then "
    "there these they this to was will with"
)
_ROWS_AT_A_TIME = 1024


@dataclass(frozen=True, kw_only=True)
class Bm25Config:
    """How words are weighed and cut; the defaults are those of Anserini's baselines."""

    k1: float = 0.9
    """How soon a word's repetition stops counting."""
    b: float = 0.4
    """How far long passages are discounted, in [0, 1]."""
    english: bool = True
    """Whether Lucene's English stop words are dropped and words stemmed (Porter 1980)."""
    template: str = "{title} {text}"
    """A passage as text: {title} (with the section), {text}, {section}."""

    def __post_init__(self) -> None:
        if self.k1 < 0 or not 0 <= self.b <= 1:
            raise InputError(f"k1={self.k1}, b={self.b}: give k1 >= 0 and b between 0 and 1")


class Bm25:
    """The passages of a store by words (Robertson and Zaragoza 2009, in Lucene's form).

    The scores are computed by ``bm25s`` when it is made and held in memory: some 8 bytes a distinct
    word of a passage. Hidden rows of the store are not found.
    """

    def __init__(self, store: PassageStore, config: Bm25Config | None = None) -> None:
        """Read every passage of the store.

        Raises:
            InputError: ``bm25s`` is not installed.
        """
        config = config or Bm25Config()
        self._stem = _stemmer() if config.english else None
        self._stop = frozenset(_STOP_WORDS.split() if config.english else ())
        self._words: dict[str, int] = {}
        self._stems: dict[str, int] = {}
        self._hidden = store.hidden
        documents: list[array[int]] = []
        starts = range(0, len(store), _ROWS_AT_A_TIME)
        for start in track(starts, "Reading words"):
            rows = range(start, min(start + _ROWS_AT_A_TIME, len(store)))
            for passage in store.passages(rows):
                documents.append(self._ids(format_passage(config.template, passage), grow=True))
        self._index = _library().BM25(k1=config.k1, b=config.b, method="lucene")
        self._index.index((documents, self._stems), show_progress=False)

    def search(self, queries: Sequence[str], topk: int) -> list[list[int]]:
        """Return the rows of each query's best passages, best first.

        A passage that shares no word with the query is not found, so that there may be fewer than
        ``topk``. Equal scores are in the order of the rows.
        """
        return [rows for rows, _ in self.search_with_scores(queries, topk)]

    def search_with_scores(
        self, queries: Sequence[str], topk: int
    ) -> list[tuple[list[int], list[float]]]:
        """Return the rows of `search` and their scores."""
        if topk < 1:
            raise InputError(f"topk={topk}: ask for at least one passage")
        return [self._best(query, topk) for query in track(queries, "Searching words")]

    def _best(self, query: str, topk: int) -> tuple[list[int], list[float]]:
        ids = self._ids(query, grow=False)
        if not ids:
            return [], []
        scores: Float[np.ndarray, " n"] = self._index.get_scores_from_ids(ids)
        if self._hidden is not None:
            scores[self._hidden] = 0
        rows = np.flatnonzero(scores > 0)
        if len(rows) > topk:
            floor = np.partition(scores[rows], -topk)[-topk]
            rows = rows[scores[rows] >= floor]
        rows = rows[np.argsort(-scores[rows], kind="stable")][:topk]
        return rows.tolist(), scores[rows].tolist()

    def _ids(self, text: str, *, grow: bool) -> array[int]:
        """Return the numbers of a text's words; words never seen get one where ``grow``."""
        found = array("i")
        for word in _WORD.findall(text.lower()):
            number = self._words.get(word)
            if number is None and word not in self._stop:
                stem = self._stem(word) if self._stem else word
                number = self._stems.get(stem)
                if number is None and grow:
                    number = self._stems[stem] = len(self._stems)
                if number is not None:
                    self._words[word] = number
            if number is not None:
                found.append(number)
        return found


def _library() -> Any:
    return library("bm25s", needs="BM25 needs the bm25s package", extra="evaluation")


@cache
def _stemmer() -> Any:
    porter = importlib.import_module("nltk.stem.porter").PorterStemmer
    return porter(mode=porter.MARTIN_EXTENSIONS).stem
