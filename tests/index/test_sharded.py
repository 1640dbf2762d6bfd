from __future__ import annotations

from pathlib import Path

import pytest
import torch

from atlas_lm.index import FlatIndex, build
from atlas_lm.index.binary import BinaryIndex, encode_signs
from atlas_lm.index.coded import Facts
from atlas_lm.index.int8 import Int8Index
from atlas_lm.index.settings import IndexSettings
from atlas_lm.index.sharded import ShardedIndex, open_sharded
from atlas_lm.index.vectors import encode_int8
from atlas_lm.runtime.errors import InputError
from tests.index.conftest import COUNT, DIM, make_fingerprint
from tests.index.sharded_worker import run_processes

pytestmark = pytest.mark.multiprocess


def vectors_of(seed: int, count: int, dim: int = DIM) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-3, 4, (count, dim), generator=generator).float()  # many equal scores


def queries_of(rank: int, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(100 + rank)
    return torch.randint(-3, 4, (count, DIM), generator=generator).float()


def exclusions_of(rank: int, queries: int, count: int, most: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(200 + rank)
    return [
        torch.randint(count, (query % (most + 1),), generator=generator).tolist()
        for query in range(queries)
    ]


def mask_of(seed: int, count: int) -> torch.Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(seed)) < 0.6


def whole_index(count: int) -> FlatIndex:
    return FlatIndex(vectors_of(0, count), fingerprint=make_fingerprint())


def searches(rank: int, count: int) -> list[dict]:
    """The searches of one process, one after the other."""
    sizes = [3, 0, 5][rank % 3]
    return [
        {"query": queries_of(rank, 4), "topk": 7},
        {"query": queries_of(rank, sizes), "topk": 9},
        {
            "query": queries_of(rank, sizes),
            "topk": 5,
            "exclude": exclusions_of(rank, sizes, count, 12),
        },
        {"query": queries_of(rank, sizes), "topk": 4, "allowed": mask_of(7, count)},
        {  # every process its own mask, one of them none
            "query": queries_of(rank, 3),
            "topk": 4,
            "exclude": exclusions_of(rank, 3, count, 4),
            "allowed": mask_of(rank, count) if rank != 1 else None,
        },
        {"query": queries_of(rank, 2), "topk": count},  # more than any share holds
        {"query": queries_of(rank, 0), "topk": 3},  # nobody asks
    ]


def ask(index, search: dict):
    return index.search(
        search["query"], search["topk"], search.get("exclude"), allowed_rows=search.get("allowed")
    )


def searched(rank: int, size: int, directory: Path, count: int) -> list:
    index = ShardedIndex(whole_index(count))
    found = [ask(index, search) for search in searches(rank, count)]
    return [(one.scores, one.rows) for one in found]


@pytest.mark.parametrize(("size", "count"), [(2, 41), (3, 20)])
def test_several_processes_find_exactly_what_one_finds(tmp_path, size, count):
    results = run_processes(searched, size, tmp_path, count)
    whole = whole_index(count)
    for rank, result in enumerate(results):
        for (scores, rows), search in zip(result, searches(rank, count), strict=True):
            if not len(search["query"]):
                assert scores.shape == rows.shape == (0, search["topk"])
                continue
            expected = ask(whole, search)
            assert torch.equal(rows, expected.rows)
            assert torch.equal(scores, expected.scores)


def test_one_process_needs_no_process_group():
    index, whole = ShardedIndex(whole_index(41)), whole_index(41)
    assert index.rows == range(41)
    assert (len(index), index.dim, index.dtype, index.step) == (41, DIM, torch.float32, 0)
    for search in searches(0, 41)[:-1]:
        expected = ask(whole, search)
        found = ask(index, search)
        assert torch.equal(found.rows, expected.rows)
        assert torch.equal(found.scores, expected.scores)


class Undivided:
    """An index of a kind that cannot be cut."""

    def __init__(self, index: FlatIndex) -> None:
        self._index = index
        self.fingerprint, self.passage_files = index.fingerprint, index.passage_files
        self.dim, self.dtype, self.step, self.device = DIM, index.dtype, 0, index.device

    def __len__(self) -> int:
        return len(self._index)

    def search(self, query_emb, topk, exclude_rows=None, *, allowed_rows=None):
        return self._index.search(query_emb, topk, exclude_rows, allowed_rows=allowed_rows)


def searched_undivided(rank: int, size: int, directory: Path) -> list:
    index = ShardedIndex(Undivided(whole_index(41)))
    found = [ask(index, search) for search in searches(rank, 41)]
    return [(one.scores, one.rows) for one in found]


def test_a_kind_that_cannot_be_cut_is_searched_under_a_mask(tmp_path):
    results = run_processes(searched_undivided, 2, tmp_path)
    for rank, result in enumerate(results):
        for (scores, rows), search in zip(result, searches(rank, 41), strict=True):
            if len(search["query"]):
                expected = ask(whole_index(41), search)
                assert torch.equal(rows, expected.rows)
                assert torch.equal(scores, expected.scores)


def refreshed(rank: int, size: int, directory: Path) -> list:
    """Replace every process's share, then some rows, then save."""
    index, _ = open_sharded(directory / "old.idx")
    own = index.rows
    fresh = vectors_of(1, len(index))[own.start : own.stop]
    index.local.update_(slice(None), fresh, step=5)
    ends = [0, len(own) - 1]
    index.local.update_(ends, 2 * fresh[ends], step=6)
    index.save(directory / "new.idx")
    found = index.search(queries_of(rank, 3), 10)
    return [found.scores, found.rows, [index.step, own.start, own.stop]]


def test_each_process_refreshes_its_share_and_any_world_opens_what_is_saved(
    tmp_path, store, embed, fingerprint
):
    build(store, embed, tmp_path / "old.idx", fingerprint=fingerprint, dtype=torch.float32)
    results = run_processes(refreshed, 2, tmp_path)
    expected = FlatIndex(vectors_of(1, COUNT), fingerprint=fingerprint)
    for _, _, (step, start, stop) in results:
        assert step == 5
        some = [start, stop - 1]
        expected.update_(some, 2 * vectors_of(1, COUNT)[some])
    for rank, (scores, rows, _) in enumerate(results):
        found = expected.search(queries_of(rank, 3), 10)
        assert torch.equal(rows, found.rows)
        assert torch.equal(scores, found.scores)
    saved = FlatIndex.load(tmp_path / "new.idx")
    assert torch.equal(saved.embeddings, expected.embeddings)
    for size in (1, 3):
        again = run_processes(opened_again, size, tmp_path)
        for rank, (scores, rows) in enumerate(again):
            found = expected.search(queries_of(rank, 2), 5)
            assert torch.equal(rows, found.rows)
            assert torch.equal(scores, found.scores)


def opened_again(rank: int, size: int, directory: Path) -> tuple:
    index, store = open_sharded(directory / "new.idx")
    assert len(store) == len(index) == COUNT
    found = index.search(queries_of(rank, 2), 5)
    return found.scores, found.rows


def in_error(rank: int, size: int, directory: Path) -> list[str]:
    """One process is at fault; both must hear of it, and go on after it."""
    index = ShardedIndex(whole_index(41))
    messages = []
    query = queries_of(rank, 2)
    bad = query.clone()
    bad[0, 0] = torch.nan
    faults = [
        lambda: index.search(bad if rank == 1 else query, 3),
        lambda: index.search(query, 3 + rank),
        lambda: index.search(query, 3, [[0], [99]] if rank == 0 else None),
        lambda: index.search(query, 3, allowed_rows=torch.zeros(41 - rank, dtype=torch.bool)),
        lambda: index.search(queries_of(rank, 2)[:, :3] if rank else query, 3),
        lambda: open_sharded(directory / "absent"),
    ]
    for fault in faults:
        try:
            fault()
        except InputError as error:
            messages.append(str(error))
    index.search(query, 3)
    return messages


def test_a_fault_of_one_process_is_an_error_on_all(tmp_path):
    first, second = run_processes(in_error, 2, tmp_path)
    assert len(first) == len(second) == 6
    assert "process 1 of 2: query embedding 0 is not finite" in first[0]
    assert second[0].startswith("query embedding 0 is not finite")
    assert "3, 4" in first[1]
    assert first[1] == second[1]
    assert first[2].startswith("query 1 excludes row 99")
    assert "process 0 of 2" in second[2]
    assert "topk=3, but 0 of 41" in first[3]
    assert "allowed_rows has 40 entries" in second[3]
    assert "queries of shape" in second[4]
    assert "absent" in first[5]


def searched_tiny(rank: int, size: int, directory: Path) -> tuple:
    found = ShardedIndex(whole_index(2)).search(queries_of(rank, 2), 2)
    return found.scores, found.rows


def test_more_processes_than_rows(tmp_path):
    for rank, (scores, rows) in enumerate(run_processes(searched_tiny, 3, tmp_path)):
        expected = whole_index(2).search(queries_of(rank, 2), 2)
        assert torch.equal(rows, expected.rows)
        assert torch.equal(scores, expected.scores)


def coded(kind: str, directory: Path) -> tuple:
    count = 700
    facts = Facts(
        count=count,
        settings=IndexSettings(kind=kind, dtype="float32", keep_vectors=kind == "binary"),
        fingerprint=make_fingerprint(),
    )
    vectors = torch.randn((count, DIM), generator=torch.Generator().manual_seed(5))
    if kind == "int8":
        return Int8Index(facts, encode_int8(vectors)), vectors
    return BinaryIndex(facts, encode_signs(vectors), None, vectors), vectors


def searched_coded(rank: int, size: int, directory: Path, kind: str) -> tuple:
    index = ShardedIndex(coded(kind, directory)[0])
    assert len(index.local) == len(index.rows) == 350
    found = index.search(queries_of(rank, 3), 6, [[rank], [], [699]])
    return found.scores, found.rows


@pytest.mark.parametrize("kind", ["int8", "binary"])
def test_codes_are_cut(tmp_path, kind):
    whole = coded(kind, tmp_path)[0]
    for rank, (scores, rows) in enumerate(run_processes(searched_coded, 2, tmp_path, kind)):
        expected = whole.search(queries_of(rank, 3), 6, [[rank], [], [699]])
        assert torch.equal(rows, expected.rows)
        assert torch.equal(scores, expected.scores)
