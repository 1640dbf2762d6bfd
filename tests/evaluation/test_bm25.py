from __future__ import annotations

import json
import math

import numpy as np
import pytest

from atlas_lm.evaluation import bm25
from atlas_lm.evaluation.bm25 import Bm25, Bm25Config
from atlas_lm.passages.store import PassageStore
from atlas_lm.runtime.errors import InputError

pytest.importorskip("bm25s")
TEXTS = [
    ("Danube", "A river that rises in Germany."),
    ("Rhine", "Rivers rise in mountains, this river too."),
    ("Vienna", "A city at the Danube."),
    ("", "..."),
]


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "corpus.jsonl"
    lines = [
        json.dumps({"id": str(number), "title": title, "text": text})
        for number, (title, text) in enumerate(TEXTS)
    ]
    file.write_text("\n".join(lines) + "\n")
    return file


def test_score_is_lucenes_formula_by_hand(path):
    # "danube" is in passages 0 (once of 4 words: danube, river, rise, germani) and 2 (twice of 3:
    # vienna? "Vienna A city at the Danube" -> vienna, citi, danub). Lengths 4, 6, 3, 0; mean 13/4.
    found = Bm25(PassageStore.open(path)).search_with_scores(["The Danube?"], 4)
    idf = math.log(1 + (4 - 2 + 0.5) / (2 + 0.5))
    mean = (4 + 6 + 3 + 0) / 4
    wanted = [idf / (1 + 0.9 * (0.6 + 0.4 * length / mean)) for length in (3, 4)]
    rows, scores = found[0]
    assert rows == [2, 0]
    assert scores == pytest.approx(wanted, rel=1e-5)


def test_stems_meet_and_unknown_words_find_nothing(path):
    search = Bm25(PassageStore.open(path)).search
    assert search(["rivers", "zebra", "the", ""], 3) == [[1, 0], [], [], []]


def test_without_english_words_are_taken_as_they_are(path):
    search = Bm25(PassageStore.open(path), Bm25Config(english=False)).search
    assert search(["rivers", "the"], 3) == [[1], [2]]


def test_topk_bounds_and_ties_are_in_row_order(path):
    search = Bm25(PassageStore.open(path), Bm25Config(k1=0.0)).search
    assert search(["danube"], 1) == [[0]]
    assert search(["danube"], 10) == [[0, 2]]


def test_hidden_rows_are_not_found(path):
    store = PassageStore.open(path, hidden=np.array([2]))
    assert Bm25(store).search(["danube"], 3) == [[0]]


def test_wrong_numbers_and_missing_package(path, monkeypatch):
    with pytest.raises(InputError, match="k1=-1"):
        Bm25Config(k1=-1)
    with pytest.raises(InputError, match="at least one"):
        Bm25(PassageStore.open(path)).search(["danube"], 0)

    def missing(_):
        raise ImportError

    monkeypatch.setattr(bm25.importlib, "import_module", missing)
    with pytest.raises(InputError, match=r"atlas-lm\[evaluation\]"):
        Bm25(PassageStore.open(path))
