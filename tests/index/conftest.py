"""A corpus whose vectors are known, and a cache of its own for every test."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from atlas_lm.index import Fingerprint
from atlas_lm.passages.store import PassageStore
from atlas_lm.types import Passage

COUNT, DIM = 50, 8


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "cache"
    monkeypatch.setenv("ATLAS_LM_CACHE", str(directory))
    return directory


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "data" / "corpus.jsonl"
    path.parent.mkdir()
    lines = [json.dumps({"id": f"p{row}", "text": f"text {row}"}) for row in range(COUNT)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def store(corpus: Path) -> PassageStore:
    return PassageStore.open(corpus)


@pytest.fixture
def vectors() -> Tensor:
    return torch.randn((COUNT, DIM), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def embed(vectors: Tensor) -> Callable[[Sequence[Passage]], Tensor]:
    return lambda passages: vectors[[int(passage.id[1:]) for passage in passages]]


@pytest.fixture
def fingerprint(store: PassageStore) -> Fingerprint:
    return make_fingerprint(corpus=store.fingerprint)


def make_fingerprint(*, dim: int = DIM, corpus: str = "corpus", encoder: str = "e1") -> Fingerprint:
    return Fingerprint(
        encoder=encoder,
        template="{title} {text}",
        pooling="mean",
        similarity="dot",
        max_length=256,
        dim=dim,
        corpus=corpus,
    )
