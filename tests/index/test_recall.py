from __future__ import annotations

import pytest
import torch

from atlas_lm.index import FlatIndex
from atlas_lm.index.recall import measure_recall
from atlas_lm.index.settings import IndexSettings
from atlas_lm.types import SearchResult
from tests.index.coded import clustered
from tests.index.conftest import make_fingerprint


class Fixed:
    """Answers every query with the same rows."""

    def __init__(self, rows):
        self.rows = rows

    def search(self, query, topk, exclude_rows=None, *, allowed_rows=None):
        rows = torch.tensor(self.rows).expand(len(query), -1)[:, :topk]
        return SearchResult(torch.zeros(rows.shape), rows)


def settings(k, queries=128):
    return IndexSettings(recall_k=k, recall_queries=queries)


def test_by_hand():
    vectors = torch.tensor([[4.0, 0], [3, 0], [2, 0], [1, 0]])
    queries = torch.tensor([[1.0, 0], [-1, 0]])  # best two: rows 0 and 1; rows 3 and 2
    found = measure_recall(Fixed([0, 3]), vectors, settings(2), queries)
    assert (found.k, found.recall, found.queries, found.rows) == (2, 0.5, 2, 4)


def test_equal_vectors_stand_for_one_another():
    vectors = torch.tensor([[1.0, 0], [1, 0], [1, 0], [0, 1]])
    queries = torch.tensor([[1.0, 0]])
    assert measure_recall(Fixed([2]), vectors, settings(1), queries).recall == 1
    assert measure_recall(Fixed([3]), vectors, settings(1), queries).recall == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_an_exact_index_finds_all_and_queries_are_barred_from_themselves(dtype):
    vectors = clustered(300, 16).to(dtype)
    index = FlatIndex(vectors, fingerprint=make_fingerprint(dim=16))
    found = measure_recall(index, vectors, settings(10))
    assert (found.recall, found.queries, found.rows) == (1.0, 128, 300)


def test_few_vectors_and_no_queries():
    vectors = clustered(3, 4)
    index = FlatIndex(vectors, fingerprint=make_fingerprint(dim=4))
    assert measure_recall(index, vectors, settings(100)).k == 2
    assert measure_recall(index, vectors[:1], settings(100)) is None
    assert measure_recall(index, vectors, settings(100, queries=0)) is None
