from __future__ import annotations

import torch

from atlas_lm.index.topk import BLOCK, RunningTopk


def run(scores: torch.Tensor, topk: int, size: int):
    found = RunningTopk(scores.shape[1], topk, scores.device)
    for start in range(0, len(scores), size):
        found.add(scores[start : start + size], start)
    return found.result()


def test_hand_numbers():
    scores = torch.full((2 * BLOCK, 2), -torch.inf)
    scores[3, 0], scores[BLOCK + 1, 0], scores[5, 0] = 1.0, 2.0, 1.0
    scores[0, 1], scores[1, 1], scores[BLOCK, 1] = 4.0, 4.0, 4.0
    best, rows = run(scores, 3, BLOCK)
    assert rows.tolist() == [[BLOCK + 1, 3, 5], [0, 1, BLOCK]]
    assert best.tolist() == [[2.0, 1.0, 1.0], [4.0, 4.0, 4.0]]


def test_lots_merge_to_the_same_as_a_full_sort():
    torch.manual_seed(0)
    for size in (BLOCK, 4 * BLOCK, 20 * BLOCK):
        scores = torch.randint(-50, 50, (20 * BLOCK, 7)).float()
        best, rows = run(scores, 25, size)
        expected, order = scores.T.sort(dim=1, descending=True, stable=True)
        assert torch.equal(best, expected[:, :25])
        assert torch.equal(rows, order[:, :25])


def test_ascending_scores_displace_everything():
    scores = torch.arange(10.0 * BLOCK)[:, None]
    best, rows = run(scores, 4, BLOCK)
    assert rows.tolist() == [[10 * BLOCK - 1 - n for n in range(4)]]
    assert best[0, 0] == 10 * BLOCK - 1
