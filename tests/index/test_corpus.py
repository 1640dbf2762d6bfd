from __future__ import annotations

import os

import pytest
import torch

from atlas_lm.index import IndexSettings, add, compact, delete, open_index, refresh, update
from atlas_lm.runtime.errors import InputError
from tests.index.conftest import make_fingerprint
from tests.index.keeping import ENCODER, built, embed, write

BASE = {f"p{row}": f"base text {row}" for row in range(10)}

WRITERS = {
    "add": lambda index, new: add(index, new, embed, fingerprint=ENCODER),
    "update": lambda index, new: update(index, new, embed, fingerprint=ENCODER),
    "delete": lambda index, new: delete(index, ["p2"]),
    "compact": lambda index, new: compact(index),
    "compact anew": lambda index, new: compact(index, embed=embed, fingerprint=ENCODER),
    "refresh": lambda index, new: refresh(index, embed, fingerprint=make_fingerprint(encoder="e2")),
}


def write_at(second, path, texts):
    """Write at another time than before, however coarse the file system's clock is."""
    os.utime(write(path, texts), (second, second))


@pytest.mark.parametrize("part", [False, True], ids=["base", "part"])
@pytest.mark.parametrize("write_to", WRITERS.values(), ids=WRITERS)
def test_no_writer_touches_an_index_whose_passages_changed(tmp_path, write_to, part):
    """Rows are numbers: over reordered lines they are other passages."""
    texts = {f"q{row}": f"more {row}" for row in range(4)} if part else BASE
    index = built(tmp_path / "index", [write(tmp_path / "base.jsonl", BASE)])
    more = write(tmp_path / "more.jsonl", {f"q{row}": f"more {row}" for row in range(4)})
    add(index, more, embed, fingerprint=ENCODER)
    delete(index, ["p1"])
    before = (index / "manifest.json").read_bytes()
    file = more if part else tmp_path / "base.jsonl"
    write_at(1, file, dict(reversed(texts.items())))
    new = write(tmp_path / "new.jsonl", {"r": "new"})
    with pytest.raises(InputError, match="put the original files back"):
        write_to(index, new)
    assert (index / "manifest.json").read_bytes() == before
    write_at(2, file, texts)
    write_to(index, new)
    _, store = open_index(index)
    assert store.rows_of(["p1"], missing="skip") == []
    assert len(store.rows_of(["p8", "q3"])) == 2


def test_codes_are_made_again_of_the_passages_they_were_made_of(tmp_path):
    settings = IndexSettings(kind="int8", dtype="float32", recall_queries=0)
    file = write(tmp_path / "base.jsonl", BASE)
    index = built(tmp_path / "index", [file], settings=settings)
    delete(index, ["p1"])
    write_at(1, file, dict(reversed(BASE.items())))
    with pytest.raises(InputError, match="put the original files back"):
        compact(index, embed=embed, fingerprint=ENCODER)
    write_at(2, file, BASE)
    compact(index, embed=embed, fingerprint=ENCODER)
    found, store = open_index(index)
    best = found.search(embed([store[3]]), 1).rows
    assert torch.equal(best, torch.tensor([[3]]))
