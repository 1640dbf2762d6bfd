"""How far a model's confidence can be believed: reliability, expected calibration error, AUROC.

The confidence of an answer is the probability the reader gave it: exp of the summed
log-probabilities of its tokens, its end included.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from atlas_lm.evaluation.records import AnswerRecord

BINS = 10
CORRECT = ("exact_match", "debiased_accuracy", "accuracy")
"""Metrics that say whether an answer is right; the first that a record has counts. A choice
averaged over orders has the average's confidence, so its correctness is the average's too."""


@dataclass(frozen=True)
class Bin:
    """Answers of similar confidence."""

    low: float
    high: float
    answers: int
    confidence: float
    """Mean confidence."""
    accuracy: float
    """Share of them that is right."""


@dataclass(frozen=True)
class Calibration:
    """Confidence against correctness over a set of answers."""

    answers: int
    confidence: float
    """Mean confidence; above ``accuracy``: the reader is too sure of itself."""
    accuracy: float
    expected_calibration_error: float
    """Mean over the answers of |accuracy - confidence| of their bin (Guo et al. 2017)."""
    brier: float
    """Mean squared difference of confidence and correctness (0 or 1)."""
    auroc: float | None
    """Chance that a right answer has more confidence than a wrong one, ties counting half; None
    where all are right or all wrong."""
    bins: tuple[Bin, ...]
    """The bins of equal width that hold an answer."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, for JSON."""
        return asdict(self)


def calibration_of(records: Sequence[AnswerRecord]) -> Calibration | None:
    """Return the calibration of recorded answers; None where none has a confidence.

    Answers without a correctness or a finite log-probability are left out; an answer that comes
    short of a whole match counts as wrong.
    """
    pairs = [
        (math.exp(min(0.0, record.generated.log_prob)), float(correct == 1.0))
        for record in records
        if record.generated is not None
        and math.isfinite(record.generated.log_prob)
        and (correct := correctness(record)) is not None
    ]
    return calibrate([pair[0] for pair in pairs], [pair[1] for pair in pairs]) if pairs else None


def correctness(record: AnswerRecord) -> float | None:
    """Return how right an answer is, by the first of `CORRECT`; None where nothing says so."""
    return next((record.metrics[name] for name in CORRECT if name in record.metrics), None)


def calibrate(confidence: ArrayLike, correct: ArrayLike, *, bins: int = BINS) -> Calibration:
    """Return the calibration of confidences in [0, 1] against correctness, 0 or 1.

    Raises:
        ValueError: there are no answers, the two differ in length, or a value is out of range.
    """
    sure = np.asarray(confidence, dtype=np.float64).reshape(-1)
    right = np.asarray(correct, dtype=np.float64).reshape(-1)
    if sure.size == 0 or sure.shape != right.shape:
        raise ValueError(f"{sure.size} confidences and {right.size} answers; give as many, not 0")
    if not ((sure >= 0) & (sure <= 1)).all() or not np.isin(right, (0, 1)).all():
        raise ValueError("confidences must be in [0, 1] and correctness 0 or 1")
    places = np.minimum((sure * bins).astype(int), bins - 1)
    table = tuple(
        Bin(place / bins, (place + 1) / bins, int(own.sum()), _mean(sure[own]), _mean(right[own]))
        for place in range(bins)
        if (own := places == place).any()
    )
    error = sum(part.answers * abs(part.accuracy - part.confidence) for part in table)
    return Calibration(
        answers=int(sure.size),
        confidence=_mean(sure),
        accuracy=_mean(right),
        expected_calibration_error=error / sure.size,
        brier=_mean((sure - right) ** 2),
        auroc=auroc(sure, right == 1),
        bins=table,
    )


def auroc(score: Float[np.ndarray, " n"], positive: ArrayLike) -> float | None:
    """Return the area under the ROC curve, ties counting half; None without both kinds."""
    chosen = np.asarray(positive, dtype=bool)
    n_positive, n_negative = int(chosen.sum()), int((~chosen).sum())
    if not n_positive or not n_negative:
        return None
    _, places, counts = np.unique(score, return_inverse=True, return_counts=True)
    mean_ranks = np.cumsum(counts) - (counts - 1) / 2  # from 1
    rank_sum = mean_ranks[places][chosen].sum()
    return float((rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def _mean(values: Float[np.ndarray, " n"]) -> float:
    return float(values.mean())
