from __future__ import annotations

import math

import numpy as np
import pytest

from atlas_lm.evaluation.calibration import auroc, calibrate, calibration_of, correctness
from atlas_lm.evaluation.records import AnswerRecord
from atlas_lm.types import Example, Generated


def record(log_prob: float, **metrics: float) -> AnswerRecord:
    return AnswerRecord(Example("1", "q", "t"), Generated("x", (1,), log_prob), (), metrics)


def test_by_hand():
    # bins of a half: {0.2, 0.4} right 0 of 2, {0.6, 1.0} right 2 of 2
    found = calibrate([0.2, 0.4, 0.6, 1.0], [0, 0, 1, 1], bins=2)
    assert [(part.answers, part.accuracy) for part in found.bins] == [(2, 0.0), (2, 1.0)]
    assert found.bins[0].confidence == pytest.approx(0.3)
    assert found.bins[1].confidence == pytest.approx(0.8)
    assert found.expected_calibration_error == pytest.approx((2 * 0.3 + 2 * 0.2) / 4)
    assert found.brier == pytest.approx((0.04 + 0.16 + 0.16 + 0) / 4)
    assert found.auroc == 1.0
    assert (found.confidence, found.accuracy) == (pytest.approx(0.55), 0.5)


def test_a_confidence_of_one_is_in_the_last_bin_and_empty_bins_are_left_out():
    found = calibrate([1.0, 0.0], [1, 0])
    assert [(part.low, part.high) for part in found.bins] == [(0.0, 0.1), (0.9, 1.0)]


def test_auroc_is_the_chance_that_a_right_answer_is_surer():
    draw = np.random.default_rng(0)
    score, right = draw.integers(0, 5, 60) / 4, draw.integers(0, 2, 60).astype(bool)
    pairs = [(p > n) + 0.5 * (p == n) for p in score[right] for n in score[~right]]
    assert auroc(score, right) == pytest.approx(np.mean(pairs))
    assert auroc(score, np.ones(60)) is None


def test_only_answers_with_a_confidence_and_a_correctness_count():
    records = [
        record(math.log(0.5), exact_match=1.0),
        record(-math.inf, exact_match=1.0),
        record(-0.1, recall_at_1=1.0),
        record(1e-9, accuracy=0.0),
    ]
    found = calibration_of(records)
    assert found is not None
    assert (found.answers, found.accuracy) == (2, 0.5)
    assert found.confidence == pytest.approx(0.75)
    assert calibration_of(records[1:3]) is None
    assert correctness(records[3]) == 0.0
    assert correctness(record(-0.1, accuracy=0.0, debiased_accuracy=1.0)) == 1.0


@pytest.mark.parametrize(
    ("confidence", "correct"), [([], []), ([0.5], [1, 0]), ([1.5], [1]), ([0.5], [0.3])]
)
def test_what_is_no_calibration_is_refused(confidence, correct):
    with pytest.raises(ValueError, match=r"confidences"):
        calibrate(confidence, correct)
