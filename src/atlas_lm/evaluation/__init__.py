"""Answers and retrieval, measured."""

from atlas_lm.evaluation.bootstrap import (
    Comparison,
    Estimate,
    Interval,
    bootstrap_mean,
    compare,
    paired_difference,
)
from atlas_lm.evaluation.card_examples import choose_examples
from atlas_lm.evaluation.evaluate import (
    DEFAULT_KS,
    AnswerBatch,
    Evaluation,
    compare_records,
    evaluate,
    evaluate_answers,
    record_answers,
    summarise,
)
from atlas_lm.evaluation.measure import measure
from atlas_lm.evaluation.metrics import (
    answer_spans,
    exact_match,
    f1,
    gold_recall_at_k,
    has_answer,
    mrr,
    recall_at_k,
    rouge_l,
)
from atlas_lm.evaluation.records import AnswerRecord, Metrics, RankedPassage, write_predictions
from atlas_lm.evaluation.report import comparison_table, metrics_table, to_json
from atlas_lm.evaluation.run_card import RunFacts, write_run_card
from atlas_lm.runtime.normalization import normalize_answer

__all__ = [
    "DEFAULT_KS",
    "AnswerBatch",
    "AnswerRecord",
    "Comparison",
    "Estimate",
    "Evaluation",
    "Interval",
    "Metrics",
    "RankedPassage",
    "RunFacts",
    "answer_spans",
    "bootstrap_mean",
    "choose_examples",
    "compare",
    "compare_records",
    "comparison_table",
    "evaluate",
    "evaluate_answers",
    "exact_match",
    "f1",
    "gold_recall_at_k",
    "has_answer",
    "measure",
    "metrics_table",
    "mrr",
    "normalize_answer",
    "paired_difference",
    "recall_at_k",
    "record_answers",
    "rouge_l",
    "summarise",
    "to_json",
    "write_predictions",
    "write_run_card",
]
