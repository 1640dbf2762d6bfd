from __future__ import annotations

import numpy as np
import pytest

from atlas_lm.evaluation import bootstrap
from atlas_lm.evaluation.bootstrap import bootstrap_mean, compare, paired_difference


def test_interval_of_a_coin_is_the_binomials():
    # 400 examples, half right: standard error 0.5 / 20 = 0.025, so 0.5 -+ 1.96 * 0.025
    interval = bootstrap_mean([0.0, 1.0] * 200, resamples=20_000)
    assert interval.mean == 0.5
    assert interval.low == pytest.approx(0.451, abs=0.006)
    assert interval.high == pytest.approx(0.549, abs=0.006)


def test_same_seed_same_interval():
    values = np.random.default_rng(0).random(30)
    assert bootstrap_mean(values, seed=1) == bootstrap_mean(values, seed=1)
    assert bootstrap_mean(values, seed=1) != bootstrap_mean(values, seed=2)


def test_vectorised_equals_one_resample_at_a_time(monkeypatch):
    values = np.random.default_rng(0).random(17)
    whole = bootstrap_mean(values, seed=3, resamples=101)
    monkeypatch.setattr(bootstrap, "_DRAWS_AT_ONCE", 1)
    assert bootstrap_mean(values, seed=3, resamples=101) == pytest.approx(whole, abs=1e-12)


def test_pairing_cancels_what_the_examples_have_in_common():
    hard = np.random.default_rng(0).random(200)
    difference = paired_difference(hard, hard + 0.1)
    assert difference == pytest.approx((0.1, 0.1, 0.1))


def test_coverage_is_close_to_95_percent():
    generator = np.random.default_rng(5)
    inside = 0
    for trial in range(300):
        interval = bootstrap_mean(generator.random(60) < 0.3, seed=trial, resamples=400)
        inside += interval.low <= 0.3 <= interval.high
    # Binomial(300, 0.95) has standard deviation 3.8; percentile intervals run a little narrow.
    assert 0.89 < inside / 300 <= 0.99


@pytest.mark.parametrize("values", [[], [1.0, float("nan")]])
def test_nothing_to_average(values):
    with pytest.raises(ValueError, match=r"at least one value|not finite"):
        bootstrap_mean(values)


def test_pairs_must_match():
    with pytest.raises(ValueError, match="3 values before and 2 after"):
        paired_difference([0, 1, 1], [0, 1])


def flips(up: int, down: int, n: int) -> bootstrap.Comparison:
    before = [0.0] * up + [1.0] * down + [0.0] * (n - up - down)
    after = [1.0] * up + [0.0] * down + [0.0] * (n - up - down)
    return compare("em", before, after)


@pytest.mark.parametrize(
    ("up", "down", "n", "verdict"),
    [
        (30, 5, 200, "improved"),
        (5, 30, 200, "worse"),
        (12, 10, 200, "no difference beyond noise"),
        (0, 0, 200, "unchanged"),
        (5, 0, 200, "no difference beyond noise"),  # five of five by chance: 2 * 2^-5 = 0.06
        (3, 0, 3, "no difference beyond noise"),
        (6, 0, 200, "improved"),
    ],
)
def test_verdicts(up, down, n, verdict):
    comparison = flips(up, down, n)
    assert comparison.verdict == verdict
    assert comparison.changed == up + down
    assert comparison.difference.mean == pytest.approx((up - down) / n)


def test_no_improvement_is_claimed_where_there_is_none():
    generator = np.random.default_rng(0)
    claimed = sum(
        compare(
            "em", list(generator.random(80) < 0.4), list(generator.random(80) < 0.4), resamples=400
        ).is_beyond_noise
        for _ in range(200)
    )
    assert claimed / 200 < 0.11
