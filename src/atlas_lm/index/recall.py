"""How much of the exact result an index finds, measured when it is built."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from atlas_lm.index.base import Index
from atlas_lm.index.exact import exact_search
from atlas_lm.index.files import Recall
from atlas_lm.index.settings import IndexSettings
from atlas_lm.index.vectors import Dense, scores_at
from atlas_lm.runtime.mapping import let_go

TIE = 1e-6
"""Scores this near, relative to the query's and the vector's own size, count as equal."""
EXACT_AT_ONCE = 64
"""Queries searched exactly at once."""


class _LetGo(Dense):
    """Mapped vectors of which memory holds a chunk or two."""

    def chunk(
        self, start: int, stop: int, room: Float32[Tensor, "rows dim"]
    ) -> Float32[Tensor, "some dim"]:
        """Return the vectors of these rows; those before leave memory."""
        let_go(self.embeddings)
        return super().chunk(start, stop, room)


def measure_recall(
    index: Index,
    embeddings: Float[Tensor, "n dim"],
    settings: IndexSettings,
    queries: Float[Tensor, "n_queries dim"] | None = None,
) -> Recall | None:
    """Return the share of the exact top k that ``index`` finds among all its rows.

    Where no queries are given, vectors of the index are sampled as queries, and each is barred
    from finding itself. Passages are not questions: they lie closer to one another, which makes
    neighbours harder to tell apart, so the recall of questions is usually somewhat higher.

    A row that is found counts where its exact score reaches the k-th best, so equal vectors may
    stand for one another.

    Args:
        index: the index of codes.
        embeddings: its full-precision vectors, mapped.
        settings: how many queries, and which k.
        queries: embedded queries to use instead of sampled vectors.

    Returns:
        None where nothing is to be measured: no queries, or a single vector.
    """
    count = len(embeddings)
    own = None
    if queries is None:
        generator = np.random.default_rng(settings.seed)
        size = min(settings.recall_queries, count)
        own = np.sort(generator.choice(count, size, replace=False)).tolist()
        queries = embeddings[own].float()
    k = min(settings.recall_k, count - 1)
    if not len(queries) or k < 1:
        return None
    hits = 0
    for start in range(0, len(queries), EXACT_AT_ONCE):
        some = queries[start : start + EXACT_AT_ONCE]
        barred = None if own is None else [[row] for row in own[start : start + EXACT_AT_ONCE]]
        exact = exact_search(_LetGo(embeddings), some, k, barred).scores[:, -1:]
        found = index.search(some, k, barred).rows.cpu()
        scores = scores_at(Dense(embeddings), some.double(), found)
        near = TIE * some.norm(dim=1, keepdim=True) * _largest_norm(embeddings, found)
        hits += int((scores >= exact - near).sum())
        let_go(embeddings)
    recall = hits / (len(queries) * k)
    return Recall(k=k, recall=recall, queries=len(queries), rows=count)


def _largest_norm(embeddings: Float[Tensor, "n dim"], rows: Tensor) -> Tensor:
    return torch.stack([embeddings[some].float().norm(dim=1).max() for some in rows])[:, None]
