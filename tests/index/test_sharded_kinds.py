"""Every kind of index, opened by several processes: the same answers as in one, or better ones."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from atlas_lm.index import IndexSettings, add, delete, open_index
from atlas_lm.index.sharded import open_sharded
from atlas_lm.index.stack import stack
from atlas_lm.types import SearchResult
from tests.index.coded import use_first_pass
from tests.index.conftest import DIM
from tests.index.keeping import ENCODER, built, embed, write
from tests.index.sharded_worker import run_processes

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]

KINDS: dict[str, dict] = {
    "flat": {"first_pass": False},
    "flat with codes": {},
    "int8": {"kind": "int8"},
    "int8 with vectors": {"kind": "int8", "keep_vectors": True},
    "binary": {"kind": "binary"},
    "binary with vectors": {"kind": "binary", "keep_vectors": True},
}
if importlib.util.find_spec("faiss") is not None:
    KINDS["faiss"] = {"kind": "faiss", "factory": "SQ8"}
    KINDS["faiss with vectors"] = {"kind": "faiss", "factory": "SQ8", "keep_vectors": True}
BY_CODES = ("int8", "int8 with vectors", "binary", "binary with vectors", "stack")
"""Codes choose what is rescored, and every share chooses as many as the whole: more is found."""
TOPK = 6


@pytest.fixture
def small(monkeypatch):
    use_first_pass(monkeypatch, count=100)


def texts(first: int, stop: int) -> dict[str, str]:
    return {f"p{row}": f"text {row}" for row in range(first, stop)}


def write_indexes(directory: Path, count: int) -> list[str]:
    """Write an index of every kind, one of them with parts and dead rows, and a stack."""
    corpus = write(directory / "corpus.jsonl", texts(0, count))
    more = write(directory / "more.jsonl", texts(count, count + count // 2))
    for name, options in KINDS.items():
        settings = IndexSettings(dtype="float32", recall_queries=0, **options)
        built(directory / name, [corpus], settings=settings)
    for name in ("parted", "other"):
        built(directory / name, [more], settings=IndexSettings(dtype="float32"))
    add(directory / "parted", corpus, embed, fingerprint=ENCODER)
    delete(directory / "parted", list(texts(count, count + count // 2 - 2)))
    stack([directory / "int8", directory / "other"], directory / "stack")
    return [*KINDS, "parted", "stack"]


def searched(rank: int, size: int, directory: Path, names: list[str], topk: int) -> Mapping:
    use_first_pass(pytest.MonkeyPatch(), count=100)  # in a process of its own
    found = {}
    for name in names:
        index, _ = open_sharded(directory / name)
        result = search(index, rank, topk)
        found[name] = (result.scores, result.rows)
    return found


def search(index, rank: int, topk: int) -> SearchResult:
    query = torch.randn((3, DIM), generator=torch.Generator().manual_seed(rank))
    return index.search(query, topk, [[rank % 2], [], []])


def test_two_processes_open_every_kind(tmp_path, small):
    names = write_indexes(tmp_path, 500)
    results = run_processes(searched, 2, tmp_path, names, TOPK)
    for name in names:
        whole, _ = open_index(tmp_path / name)
        for rank, result in enumerate(results):
            expected = search(whole, rank, TOPK)
            scores, rows = result[name]
            if name in BY_CODES:
                assert (scores >= expected.scores).all(), name
                continue
            assert torch.equal(rows, expected.rows), name
            assert torch.equal(scores, expected.scores), name


def test_more_processes_than_rows_open_every_kind(tmp_path):
    corpus = write(tmp_path / "corpus.jsonl", texts(0, 2))
    for name, options in KINDS.items():
        settings = IndexSettings(dtype="float32", recall_queries=0, **options)
        built(tmp_path / name, [corpus], settings=settings)
    built(tmp_path / "parted", [write(tmp_path / "one.jsonl", texts(0, 1))])
    add(tmp_path / "parted", write(tmp_path / "two.jsonl", texts(1, 2)), embed, fingerprint=ENCODER)
    names = [*KINDS, "parted"]
    results = run_processes(searched, 3, tmp_path, names, 1)
    for name in names:
        whole, _ = open_index(tmp_path / name)
        for rank in range(2):
            expected = search(whole, rank, 1)
            scores, rows = results[rank][name]
            assert torch.equal(rows, expected.rows), name
            assert torch.equal(scores, expected.scores), name
