"""Answers and retrieval, measured."""

from atlas_lm.evaluation.bootstrap import (
    Comparison,
    Estimate,
    Interval,
    bootstrap_mean,
    compare,
    paired_difference,
)
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
from atlas_lm.evaluation.metrics import (
    exact_match,
    f1,
    gold_recall_at_k,
    has_answer,
    mrr,
    normalize_answer,
    recall_at_k,
    rouge_l,
)
from atlas_lm.evaluation.records import AnswerRecord, Metrics, RankedPassage, write_predictions
from atlas_lm.evaluation.report import comparison_table, metrics_table, to_json

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
    "bootstrap_mean",
    "compare",
    "compare_records",
    "comparison_table",
    "evaluate",
    "evaluate_answers",
    "exact_match",
    "f1",
    "gold_recall_at_k",
    "has_answer",
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
]
