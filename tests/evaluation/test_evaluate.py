from __future__ import annotations

import json

import pytest
import torch

from atlas_lm.evaluation import (
    compare_records,
    evaluate,
    evaluate_answers,
    record_answers,
    summarise,
    write_predictions,
)
from atlas_lm.types import Batch, Example, Generated, Passage, Retrieved

EXAMPLES = [
    Example("1", "q1", "t", ("Paris",), gold_passage_ids=frozenset({"p2", "p9"})),
    Example("2", "q2", "t", ("New York", "NYC")),
    Example("3", "q3", "t", ()),
]
PASSAGES = {
    "p1": Passage("p1", "Rome is old."),
    "p2": Passage("p2", "It is big.", title="Paris"),
    "p3": Passage("p3", "In NYC, we walk."),
}


def retrieved(*rows: str) -> Retrieved:
    passages = tuple(tuple(PASSAGES[f"p{digit}"] for digit in row) for row in rows)
    scores = torch.tensor([[3.0, 2.0, 1.0][: len(row)] for row in rows])
    return Retrieved(passages, scores, torch.zeros(scores.shape, dtype=torch.int64))


def said(*texts: str) -> list[Generated]:
    return [Generated(text, (1,), -0.5) for text in texts]


def test_metrics_by_hand():
    found = retrieved("123", "132", "123")
    metrics = evaluate_answers(EXAMPLES, said("paris", "York", "x"), found, ks=(1, 2, 20)).metrics
    means = metrics.means()
    # answered examples: 1 and 2; "York" against "New York": 2*1 / (1+2)
    assert means["exact_match"] == 0.5
    assert means["f1"] == pytest.approx((1 + 2 / 3) / 2)
    assert means["recall_at_1"] == 0
    assert means["recall_at_2"] == 1  # the title counts: Paris at rank 2; NYC at rank 2
    assert means["recall_at_3"] == 1  # 20 was asked for, 3 were retrieved
    assert means["mrr"] == 0.5
    assert means["gold_recall_at_2"] == 0.5  # p2 of p2 and p9
    assert means["gold_mrr"] == 0.5
    assert "recall_at_20" not in metrics
    assert metrics["exact_match"].n == 2
    assert metrics["gold_mrr"].n == 1
    for estimate in metrics.values():
        assert 0 <= estimate.low <= estimate.mean <= estimate.high <= 1


def test_batches_are_the_same_as_one_batch():
    whole = evaluate_answers(EXAMPLES, said("a", "b", "c"), retrieved("123", "132", "213"))
    parts = evaluate_answers(
        EXAMPLES, said("a", "b", "c"), [retrieved("123", "132"), retrieved("213")]
    )
    assert whole == parts

    def answer(batch: Batch):
        texts = {"q1": "a", "q2": "b", "q3": "c"}
        rows = {"q1": "123", "q2": "132", "q3": "213"}
        return said(*map(texts.get, batch.query)), retrieved(*map(rows.get, batch.query))

    assert evaluate(EXAMPLES, answer, batch_size=2) == whole


def test_closed_book_and_retrieval_alone():
    assert set(evaluate_answers(EXAMPLES, said("a", "b", "c")).metrics) == {
        "exact_match",
        "f1",
        "rouge_l",
    }
    alone = evaluate_answers(EXAMPLES, None, retrieved("1", "2", "3")).metrics
    assert set(alone) == {"recall_at_1", "mrr", "gold_recall_at_1", "gold_mrr"}


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="3 examples but 2 generated answers"):
        evaluate_answers(EXAMPLES, said("a", "b"))
    with pytest.raises(ValueError, match="3 examples but passages for 1 queries"):
        evaluate_answers(EXAMPLES, None, retrieved("1"))


def test_no_examples_no_metrics():
    assert len(evaluate_answers([], []).metrics) == 0


def test_predictions_are_json_lines(tmp_path):
    generated = [*said("paris", "York"), Generated("x", (), float("nan"))]
    records = record_answers(EXAMPLES, generated, retrieved("12", "13", "12"))
    path = tmp_path / "out" / "predictions.jsonl"
    write_predictions(path, records)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[0] == {
        "id": "1",
        "query": "q1",
        "answer": "paris",
        "log_prob": -0.5,
        "answers": ["Paris"],
        "em": 1.0,
        "f1": 1.0,
        "passages": [
            {"id": "p1", "score": 3.0, "has_answer": False},
            {"id": "p2", "score": 2.0, "has_answer": True},
        ],
    }
    assert lines[2]["log_prob"] is None
    assert "em" not in lines[2]


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "predictions.jsonl"
    path.write_text("old")
    with pytest.raises(AttributeError):
        write_predictions(path, [*record_answers(EXAMPLES, said("a", "b", "c")), None])
    assert [file.name for file in tmp_path.iterdir()] == ["predictions.jsonl"]
    assert path.read_text() == "old"


def test_comparison_pairs_the_examples_that_both_sides_have():
    before = record_answers(EXAMPLES, said("a", "b", "c"), retrieved("13", "12", "12"))
    after = record_answers(EXAMPLES, said("paris", "b", "c"), retrieved("21", "31", "12"))
    by_name = {comparison.name: comparison for comparison in compare_records(before, after)}
    assert by_name["exact_match"].difference.mean == 0.5
    assert by_name["exact_match"].difference.n == 2
    assert by_name["recall_at_1"].difference.mean == 1
    assert by_name["recall_at_1"].after == summarise(after)["recall_at_1"]
    with pytest.raises(ValueError, match="same examples in the same order"):
        compare_records(before, after[::-1])
