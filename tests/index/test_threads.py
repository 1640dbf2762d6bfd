from __future__ import annotations

import threading

import pytest
import torch

from atlas_lm.index import Fingerprint, FlatIndex, exact
from atlas_lm.index.threads import on_threads


@pytest.fixture
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_every_thread_works_alone_and_the_caller_keeps_its_threads(four_threads):
    together = threading.Barrier(3)

    def work() -> tuple[int, int, bool]:
        together.wait(timeout=30)
        return threading.get_ident(), torch.get_num_threads(), torch.is_grad_enabled()

    results = on_threads(work, 3)
    assert len({ident for ident, _, _ in results}) == 3
    assert [(count, grad) for _, count, grad in results] == [(1, False)] * 3
    assert torch.get_num_threads() == 4
    later: list[int] = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [4]


def test_errors_reach_the_caller(four_threads):
    def work() -> None:
        raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        on_threads(work, 2)
    assert torch.get_num_threads() == 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_threads_find_what_one_finds(monkeypatch, four_threads, dtype):
    monkeypatch.setitem(exact.CHUNK_BYTES, "cpu", 4000)
    torch.manual_seed(0)
    embeddings = torch.randint(-2, 3, (3000, 6)).to(dtype)  # many equal scores
    query = torch.randint(-2, 3, (11, 6)).float()
    fingerprint = Fingerprint("e", "t", "mean", "dot", 1, 6, "c")
    index = FlatIndex(embeddings, fingerprint=fingerprint)
    excluded = [list(range(one, 900, 7)) for one in range(11)]
    found = index.search(query, 77, excluded)
    torch.set_num_threads(1)
    alone = index.search(query, 77, excluded)
    assert torch.equal(found.rows, alone.rows)
    assert torch.equal(found.scores, alone.scores)
