"""Made-up vectors, a slow search and small chunks for the tests of codes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from atlas_lm.index import binary, codes, exact, first_pass


def clustered(count: int, dim: int, *, spread: float = 0.5, seed: int = 0) -> Tensor:
    """Unit vectors around a few centres, as embeddings of passages on a few subjects are."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn((max(count // 50, 2), dim), generator=generator)
    chosen = torch.randint(len(centres), (count,), generator=generator)
    vectors = centres[chosen] + spread * torch.randn((count, dim), generator=generator)
    return vectors / vectors.norm(dim=1, keepdim=True)


def brute_force(vectors: Tensor, query: Tensor, topk: int) -> tuple[Tensor, Tensor]:
    """The whole product in float64, then a sort by score, then row."""
    scores = query.double() @ vectors.double().T
    scores, rows = torch.sort(scores, dim=1, descending=True, stable=True)
    return scores[:, :topk], rows[:, :topk]


def recall(rows: Tensor, truth: Tensor) -> float:
    pairs = zip(rows.tolist(), truth.tolist(), strict=True)
    return sum(len(set(a) & set(b)) for a, b in pairs) / truth.numel()


def use_first_pass(monkeypatch: pytest.MonkeyPatch, *, count: int = 600, rows: int = 64) -> None:
    """Let ``count`` vectors be worth a first pass, in chunks of ``rows``."""
    monkeypatch.setattr(exact, "FIRST_PASS_FROM", count)
    for module in (first_pass, codes, binary):
        monkeypatch.setattr(module, "CHUNK_ROWS", rows)
