from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from atlas_lm.evaluation import gold
from atlas_lm.evaluation.gold import check_gold
from atlas_lm.passages.store import PassageStore
from atlas_lm.runtime.errors import InputError
from atlas_lm.types import Example


def corpus(path, ids) -> SimpleNamespace:
    """Return what `check_gold` asks of a model: passages p, q of page 1 and r of page 2."""
    with open(path, "w") as file:
        for id, page in zip(ids, "112", strict=True):
            file.write(json.dumps({"id": id, "text": "x", "wikipedia_id": page}) + "\n")
    config = SimpleNamespace(context=SimpleNamespace(passages_from="index"))
    return SimpleNamespace(store=PassageStore.open(path), config=config)


def asked(*pages):
    return [Example(page, "q", "", provenance=(frozenset(page),)) for page in pages]


@pytest.mark.parametrize("ids", [("1-1", "1-2", "2-1"), ("p", "q", "r"), ("2-1", "q", "r")])
@pytest.mark.parametrize("scanned", [1, 3])
def test_a_corpus_of_any_size_must_have_a_page(tmp_path, monkeypatch, ids, scanned):
    monkeypatch.setattr(gold, "SCANNED", scanned)
    atlas = corpus(tmp_path / "p.jsonl", ids)
    check_gold(atlas, asked("2", "9"))
    with pytest.raises(InputError, match=r"provenance wikipedia_id '8' .* nor is any other"):
        check_gold(atlas, asked("8", "9"))


def test_pages_that_are_missing_are_counted_in_a_corpus_that_is_read_whole(tmp_path, capsys):
    check_gold(corpus(tmp_path / "p.jsonl", "pqr"), asked("2", "8", "9"))
    told = "'8' of example '8' is not in"
    said = " ".join(capsys.readouterr().err.split())
    assert told in said
    assert "nor are 1 others of 3" in said
