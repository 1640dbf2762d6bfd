from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from atlas_lm.index import FlatIndex, exact
from atlas_lm.runtime.errors import InputError
from tests.index.conftest import make_fingerprint
from tests.parity.golden import load_golden

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def flat(embeddings: Tensor) -> FlatIndex:
    return FlatIndex(embeddings, fingerprint=make_fingerprint(dim=embeddings.shape[1]))


def slow_search(embeddings: Tensor, query: Tensor, topk: int, excluded=None):
    """The obvious double loop."""
    all_scores, all_rows = [], []
    for q, vector in enumerate(query.float().tolist()):
        scored = []
        for row, other in enumerate(embeddings.float().tolist()):
            if excluded is None or row not in excluded[q]:
                scored.append((sum(a * b for a, b in zip(vector, other, strict=True)), row))
        scored.sort(key=lambda pair: (-pair[0], pair[1]))
        all_scores.append([score for score, _ in scored[:topk]])
        all_rows.append([row for _, row in scored[:topk]])
    return torch.tensor(all_scores), torch.tensor(all_rows)


@pytest.fixture(params=[True, False], ids=["many_chunks", "one_chunk"])
def chunks(request, monkeypatch):
    if request.param:
        monkeypatch.setitem(exact.CHUNK_BYTES, "cpu", 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("count", "topk", "bsz"), [(300, 7, 5), (33, 33, 2), (1, 1, 3), (64, 20, 1)]
)
def test_twin_of_the_double_loop(chunks, dtype, count, topk, bsz):
    torch.manual_seed(count)
    embeddings, query = torch.randn(count, 12).to(dtype), torch.randn(bsz, 12)
    found = flat(embeddings).search(query, topk)
    scores, rows = slow_search(embeddings, query, topk)
    assert torch.equal(found.rows, rows)
    torch.testing.assert_close(found.scores, scores, rtol=1e-6, atol=1e-6)
    assert found.scores.dtype == torch.float32
    assert found.rows.dtype == torch.int64


@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_scores_go_to_the_lower_row(chunks, dtype):
    torch.manual_seed(0)
    embeddings = torch.randint(-1, 2, (400, 4)).to(dtype)  # nearly every score occurs many times
    query = torch.randint(-1, 2, (9, 4)).float()
    query[0] = 0
    found = flat(embeddings).search(query, 60)
    scores, rows = slow_search(embeddings, query, 60)
    assert torch.equal(found.rows, rows)
    assert torch.equal(found.scores, scores)
    assert found.rows[0].tolist() == list(range(60))


def test_excluded_rows_never_appear_and_the_result_is_full(chunks):
    torch.manual_seed(1)
    embeddings, query = torch.randn(200, 6), torch.randn(4, 6)
    best = slow_search(embeddings, query, 200)[1].tolist()
    excluded = [best[0][:30], [], best[2][5:180], [best[3][0], best[3][0]]]
    index = flat(embeddings)
    found = index.search(query, 20, excluded)
    scores, rows = slow_search(embeddings, query, 20, excluded)
    assert torch.equal(found.rows, rows)
    torch.testing.assert_close(found.scores, scores)
    assert torch.equal(index.search(query, 20, [[]] * 4).rows, index.search(query, 20).rows)


def test_everything_but_the_excluded_can_be_asked_for(chunks):
    torch.manual_seed(2)
    embeddings, query = torch.randn(70, 6), torch.randn(2, 6)
    excluded = [list(range(0, 70, 2)), list(range(35))]
    found = flat(embeddings).search(query, 35, excluded)
    assert torch.equal(found.rows, slow_search(embeddings, query, 35, excluded)[1])


def test_random_exclusions_against_the_twin(chunks):
    rng = random.Random(3)
    for trial in range(15):
        torch.manual_seed(trial)
        count, bsz = rng.randrange(1, 150), rng.randrange(1, 6)
        embeddings = torch.randint(-3, 4, (count, 5)).half()
        query = torch.randint(-3, 4, (bsz, 5)).float()
        excluded = [rng.sample(range(count), rng.randrange(count)) for _ in range(bsz)]
        topk = rng.randint(1, min(count - len(rows) for rows in excluded))
        found = flat(embeddings).search(query, topk, excluded)
        scores, rows = slow_search(embeddings, query, topk, excluded)
        assert torch.equal(found.rows, rows)
        assert torch.equal(found.scores, scores)


def test_slice_of_a_batch_is_a_batch_of_slices(monkeypatch):
    torch.manual_seed(4)
    index, query = flat(torch.randn(3000, 24).half()), torch.randn(37, 24)
    whole = index.search(query, 50)
    monkeypatch.setitem(exact.CHUNK_BYTES, "cpu", 100_000)
    for one in range(0, 37, 9):
        single = index.search(query[one : one + 1], 50)
        assert torch.equal(single.rows[0], whole.rows[one])
        assert torch.equal(single.scores[0], whole.scores[one])


def test_no_queries_give_no_rows():
    found = flat(torch.randn(5, 4)).search(torch.empty(0, 4), 2)
    assert found.rows.shape == found.scores.shape == (0, 2)


def test_golden_search_of_a_thousand():
    golden = load_golden()
    index = flat(golden["search/embeddings"].T)
    found = index.search(golden["search/queries"].half(), 10)  # the reference casts them
    assert torch.equal(found.rows, golden["search/exact_ids"])
    torch.testing.assert_close(
        found.scores.double(), golden["search/exact_scores"], rtol=1e-5, atol=1e-5
    )


def test_golden_index_of_ten_passages():
    golden = load_golden()
    ids = [f"{letter}{number}" for letter in "ab" for number in range(5)]
    found = flat(golden["index/embeddings"].T).search(golden["retriever/query_emb"], 4)
    torch.testing.assert_close(
        found.scores.double(), golden["index/top4_scores"], rtol=0, atol=0.05
    )
    assert [[ids[row] for row in rows] for rows in found.rows.tolist()] == golden["index/top4_ids"]


@pytest.mark.parametrize(
    ("topk", "excluded", "message"),
    [
        (0, None, "topk=0, but the index holds 6 passages; choose 1 to 6"),
        (7, None, "topk=7, but the index holds 6 passages"),
        (
            4,
            [[], [0, 1, 5, 5]],
            "topk=4, but query 1 may only get 3 passages: the index holds 6 and 3 are excluded",
        ),
        (1, [[0]], "exclude_rows has 1 lists for 2 queries"),
        (1, [[6], []], "query 0 excludes row 6, but the index has rows 0 to 5"),
        (1, [[-1], []], "query 0 excludes row -1"),
    ],
)
def test_impossible_requests(topk, excluded, message):
    with pytest.raises(InputError, match=message):
        flat(torch.randn(6, 3)).search(torch.randn(2, 3), topk, excluded)


def test_bad_queries():
    index = flat(torch.randn(6, 3))
    with pytest.raises(InputError, match=r"queries of shape \[2, 4\], but the index is of dim 3"):
        index.search(torch.randn(2, 4), 1)
    with pytest.raises(InputError, match="queries of shape"):
        index.search(torch.randn(3), 1)
    query = torch.randn(3, 3)
    query[2, 0] = torch.nan
    with pytest.raises(InputError, match="query embedding 2 is not finite"):
        index.search(query, 1)
    with pytest.raises(InputError, match="overflows float32"):
        flat(torch.full((2, 3), 1e30)).search(torch.full((1, 3), 1e30), 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_embeddings_that_are_not_finite(chunks, dtype, bad):
    embeddings = torch.randn(40, 3).to(dtype)
    embeddings[31, 1] = bad
    with pytest.raises(InputError, match="embedding of row 31 is not finite"):
        flat(embeddings)


def test_bad_embeddings():
    with pytest.raises(InputError, match=r"shape \[0, 3\]"):
        flat(torch.randn(0, 3))
    with pytest.raises(InputError, match=r"torch\.float64"):
        flat(torch.randn(2, 3).double())
    with pytest.raises(InputError, match="but the index is of dim 8"):
        FlatIndex(torch.randn(2, 3), fingerprint=make_fingerprint(dim=8))


def test_update_rows():
    embeddings = torch.randn(10, 4)
    index = flat(embeddings.clone())
    fresh = torch.randn(2, 4)
    index.update_([7, 2], fresh)
    embeddings[[7, 2]] = fresh
    assert torch.equal(index.embeddings, embeddings)
    assert index.step == 0
    index.update_(slice(3, 5), fresh)
    assert torch.equal(index.embeddings[3:5], fresh)


def test_update_of_all_rows_swaps_the_tensor():
    index = flat(torch.randn(10, 4).half())
    old, fresh = index.embeddings, torch.randn(10, 4).half()
    kept = old.clone()
    index.update_(slice(0, 10), fresh)
    assert index.embeddings.data_ptr() == fresh.data_ptr()
    assert torch.equal(old, kept)


@pytest.mark.parametrize(
    ("rows", "fresh", "message"),
    [
        ([0, 0], torch.zeros(2, 4), "a row is named twice"),
        ([10], torch.zeros(1, 4), "rows outside 0 to 9"),
        ([-1], torch.zeros(1, 4), "rows outside 0 to 9"),
        ([1], torch.zeros(2, 4), "1 rows but embeddings of shape"),
        ([1], torch.zeros(1, 5), "but the index is of dim 4"),
        ([1], torch.full((1, 4), 1e30), "not finite in torch.float16"),
        (slice(None), torch.full((10, 4), torch.nan), "not finite"),
    ],
)
def test_refused_update_changes_nothing(rows, fresh, message):
    index = flat(torch.randn(10, 4).half())
    before = index.embeddings.clone()
    with pytest.raises(InputError, match=message):
        index.update_(rows, fresh, step=9)
    assert torch.equal(index.embeddings, before)
    assert index.step == 0


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gpu_finds_what_the_cpu_finds(dtype):
    torch.manual_seed(0)
    index, query = flat(torch.randn(20_000, 64).to(dtype)), torch.randn(16, 64)
    excluded = [[one, one + 100] for one in range(16)]
    here, there = index.search(query, 50, excluded), index.to("cuda").search(query, 50, excluded)
    assert torch.equal(here.rows, there.rows.cpu())
    torch.testing.assert_close(here.scores, there.scores.cpu())
