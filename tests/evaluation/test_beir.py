from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from atlas_lm.evaluation.beir import evaluate_beir, parse_measures, read_beir, write_passages
from atlas_lm.evaluation.bm25 import Bm25
from atlas_lm.passages.store import PassageStore
from atlas_lm.runtime.errors import InputError

pytest.importorskip("ir_measures")
pytest.importorskip("bm25s")
QRELS = "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t1\nq2\td3\t1\nq2\tgone\t1\n"


def folder(path: Path, *, qrels: str = QRELS, queries: list[dict] | None = None) -> Path:
    (path / "qrels").mkdir(parents=True)
    corpus = [
        {"_id": "d1", "title": "Danube", "text": "A long river.", "metadata": {}},
        {"_id": "d2", "title": "", "text": "The Danube in Vienna."},
        {"_id": "d3", "title": "Rhine", "text": ""},
        {"_id": "q2", "title": "Rhine", "text": "Rhine, Rhine"},
    ]
    queries = queries or [
        {"_id": "q1", "text": "danube", "metadata": {}},
        {"_id": "q2", "text": "rhine"},
        {"_id": "q3", "text": "not judged"},
    ]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (path / f"{name}.jsonl").write_text(lines)
    (path / "qrels" / "test.tsv").write_text(qrels)
    return path


@pytest.fixture
def store(tmp_path):
    folder(tmp_path / "tiny")
    write_passages(tmp_path / "tiny" / "corpus.jsonl", tmp_path / "passages.jsonl")
    return PassageStore.open(tmp_path / "passages.jsonl")


def test_measures_by_hand(tmp_path, store):
    def search(queries, topk):
        assert topk == 4
        rows = {"danube": [2, 1, 0], "rhine": [3, 0, 2]}
        return [(rows[query], [3.0, 2.0, 1.0]) for query in queries]

    result = evaluate_beir(read_beir(tmp_path / "tiny"), store, search)
    # q1: grade 1 at rank 2 and 2 at rank 3, of an ideal 2, 1. q2: the passage with the query's own
    # id goes, so grade 1 at rank 2; of the two relevant one is not in the corpus.
    log = math.log2
    first = (1 / log(3) + 2 / log(4)) / (2 / log(2) + 1 / log(3))
    second = (1 / log(3)) / (1 / log(2) + 1 / log(3))
    assert result.measures["nDCG@10"].mean == pytest.approx((first + second) / 2)
    assert result.measures["R@100"].mean == pytest.approx((1 + 0.5) / 2)
    assert result.measures["nDCG@10"].n == 2
    assert (result.passages, result.not_in_corpus, result.name) == (4, 1, "tiny")


def test_words_find_them(tmp_path, store):
    search = Bm25(store).search_with_scores
    result = evaluate_beir(read_beir(tmp_path / "tiny"), store, search, measures=["RR@10"])
    assert result.measures["RR@10"].mean == 1.0


def test_a_query_with_nothing_found_counts_as_nothing(tmp_path, store):
    result = evaluate_beir(read_beir(tmp_path / "tiny"), store, lambda q, k: [([], [])] * len(q))
    assert result.measures["R@100"].mean == 0.0
    assert result.measures["R@100"].n == 2


def test_other_splits_and_files_without_a_header(tmp_path):
    path = folder(tmp_path / "tiny", qrels="q1\td1\t1\n")
    assert list(read_beir(path).queries) == ["q1"]
    with pytest.raises(
        InputError, match=r"dev.tsv: no such file; there are judgments of test; a BEIR"
    ):
        read_beir(path, "dev")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"qrels": "q1 d1 1\n"}, r"test.tsv:1: 'q1 d1 1'; expected query-id"),
        ({"qrels": QRELS + "q1\td2\t0.5\n"}, r"test.tsv:6: .*a whole number"),
        ({"qrels": QRELS.split("\n")[0]}, r"test.tsv: no judgment"),
        ({"qrels": "q9\td1\t1\n"}, r"judges query 'q9', which queries.jsonl does not have"),
        ({"queries": [{"id": "q1", "text": "x"}]}, r"queries.jsonl:1: missing field '_id'"),
        ({"queries": [{"_id": "q1", "text": " "}]}, r"queries.jsonl:1: text is blank"),
    ],
)
def test_wrong_folders(tmp_path, changes, told):
    with pytest.raises(InputError, match=told):
        read_beir(folder(tmp_path / "tiny", **changes))


def test_wrong_corpus(tmp_path):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"_id": "d1", "text": ["x"]}\n')
    with pytest.raises(InputError, match=r"corpus.jsonl:1: text is a list"):
        write_passages(corpus, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_an_unknown_measure():
    with pytest.raises(InputError, match=r"measure 'nDGC@10' is unknown \(did you mean 'nDCG@10'"):
        parse_measures(["nDGC@10"])


def test_measures_are_read_as_ir_measures_writes_them():
    names = ["nDCG@10", "P(rel=2)@10", "RR", "nDCG(dcg='exp-log2')@5"]
    assert list(map(str, parse_measures(names))) == names


@pytest.mark.parametrize(
    "name", ["iter_calc", "P(rel)@10", "nDCG(no=1)@10", "nDCG@x", "P(rel=f())"]
)
def test_what_is_no_measure_is_refused(name):
    with pytest.raises(InputError, match="is unknown"):
        parse_measures([name])
