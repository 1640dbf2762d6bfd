from __future__ import annotations

import pytest
import torch

from atlas_lm.index import FlatIndex
from atlas_lm.index import exact as exact_module
from atlas_lm.runtime.errors import InputError
from tests.index.conftest import COUNT, DIM, make_fingerprint


@pytest.fixture
def index(vectors):
    return FlatIndex(vectors, fingerprint=make_fingerprint())


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
@pytest.mark.parametrize("chunk_bytes", [8 << 20, 2048])
def test_only_allowed_rows_come_back(index, vectors, monkeypatch, share, chunk_bytes):
    monkeypatch.setitem(exact_module.CHUNK_BYTES, "cpu", chunk_bytes)
    generator = torch.Generator().manual_seed(1)
    query = torch.randn(5, DIM, generator=generator)
    allowed = torch.rand(COUNT, generator=generator) < share
    allowed[7] = True
    topk = min(10, int(allowed.sum()))
    scores = (query.double() @ vectors.double().T).masked_fill(~allowed, -torch.inf)
    expected = scores.sort(dim=1, descending=True, stable=True)
    found = index.search(query, topk, allowed_rows=allowed)
    assert torch.equal(found.rows, expected.indices[:, :topk])
    assert torch.equal(found.scores, expected.values[:, :topk].float())


def test_allowed_and_excluded_rows_add_up(index):
    allowed = torch.zeros(COUNT, dtype=torch.bool)
    allowed[[3, 8, 20]] = True
    query = torch.randn(2, DIM)
    found = index.search(query, 2, [[3, 4], [20]], allowed_rows=allowed)
    assert sorted(found.rows[0].tolist()) == [8, 20]
    assert sorted(found.rows[1].tolist()) == [3, 8]
    with pytest.raises(InputError, match=r"query 0 may only get 2 passages.*holds 3 and 1"):
        index.search(query, 3, [[3, 4], []], allowed_rows=allowed)


def test_a_mask_that_leaves_too_few_is_refused(index):
    allowed = torch.zeros(COUNT, dtype=torch.bool)
    allowed[0] = True
    with pytest.raises(InputError, match=r"topk=2, but 1 of 50 passages"):
        index.search(torch.randn(1, DIM), 2, allowed_rows=allowed)
    with pytest.raises(InputError, match=r"allowed_rows has 3 entries for 50"):
        index.search(torch.randn(1, DIM), 1, allowed_rows=allowed[:3])
