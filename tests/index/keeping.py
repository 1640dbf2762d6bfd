"""An index over passages whose vectors follow from their text, and what it should answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from atlas_lm.index import Fingerprint, IndexSettings, build, open_index
from atlas_lm.passages.store import PassageStore
from atlas_lm.types import Passage
from tests.index.conftest import DIM, make_fingerprint


def write(path: Path, texts: Mapping[str, str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"id": i, "text": t}) + "\n" for i, t in texts.items()))
    return path


def vector(text: str) -> Tensor:
    seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "little")
    return torch.randn(DIM, generator=torch.Generator().manual_seed(seed))


def embed(passages: Sequence[Passage]) -> Tensor:
    return torch.stack([vector(passage.text) for passage in passages])


ENCODER: Fingerprint = make_fingerprint()


def built(
    out: Path,
    files: Sequence[Path],
    *,
    copy_passages: bool = False,
    settings: IndexSettings | None = None,
    dtype: torch.dtype = torch.float32,
) -> Path:
    store = PassageStore.open(files)
    fingerprint = make_fingerprint(corpus=store.fingerprint)
    build(
        store,
        embed,
        out,
        fingerprint=fingerprint,
        dtype=dtype,
        settings=settings,
        copy_passages=copy_passages,
    )
    return out


def found(path: Path | Sequence[Path], query: Tensor, topk: int) -> list[list[tuple[str, str]]]:
    """Return ids and texts in the order found."""
    index, store = open_index(path)
    rows = index.search(query, topk).rows
    return [[(p.id, p.text) for p in store.passages(one)] for one in rows.tolist()]


def expected(texts: Mapping[str, str], query: Tensor) -> list[list[tuple[str, str]]]:
    """Return all passages in the order that exact search finds them."""
    items = list(texts.items())
    scores = query.double() @ torch.stack([vector(text) for text in texts.values()]).double().T
    order = scores.argsort(dim=1, descending=True)
    return [[items[row] for row in one] for one in order.tolist()]
