"""BM25 over the passages, by bm25s: the baseline without a neural encoder."""

from __future__ import annotations

from collections.abc import Sequence

import bm25s
import torch
from torch import Tensor

from atlas_lm.passages.store import PassageStore
from atlas_lm.types import Example

DEPTH = 50


def bm25_rows(store: PassageStore, examples: Sequence[Example]) -> Tensor:
    """Return the rows of the best passages of every question, ``[n, 50]``.

    Lucene's form, k1 = 1.5, b = 0.75; English stop words are left out, words are not stemmed.
    """
    texts = [f"{p.heading} {p.text}" for p in store.passages(range(len(store)))]
    index = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
    index.index(bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)
    queries = bm25s.tokenize(
        [example.query for example in examples], stopwords="en", show_progress=False
    )
    rows, _ = index.retrieve(queries, k=DEPTH, show_progress=False)
    return torch.from_numpy(rows.astype("int64"))
