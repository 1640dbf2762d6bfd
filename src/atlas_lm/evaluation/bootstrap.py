"""How sure a mean is: percentile bootstrap over examples (Efron 1979; for NLP, Koehn 2004)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

RESAMPLES = 2_000
"""Resamples behind an interval, unless said otherwise."""
FEWEST_CHANGES = 6
"""Fewer examples than this, all changed the same way, may be chance: 2 x 2^-5 > 0.05."""
_DRAWS_AT_ONCE = 4_000_000


class Interval(NamedTuple):
    """A mean and its 95% interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """A mean over ``n`` examples with its 95% interval."""

    mean: float
    low: float
    high: float
    n: int

    def to_dict(self) -> dict[str, float | int]:
        """Return the four numbers by name, for JSON."""
        return {"mean": self.mean, "low": self.low, "high": self.high, "n": self.n}


def bootstrap_mean(values: ArrayLike, *, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Return the mean of ``values`` and the 2.5th and 97.5th percentile of resampled means.

    Args:
        values: one number an example, ``[n]``.
        seed: same seed, same interval.
        resamples: how many times ``n`` values are drawn with replacement.

    Raises:
        ValueError: there are no values, or one is not finite.
    """
    sample = _finite(values)
    means = _resampled_means(sample, seed=seed, resamples=resamples)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(sample.mean()), float(low), float(high))


def estimate(values: ArrayLike, *, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """Return `bootstrap_mean` with the number of examples."""
    interval = bootstrap_mean(values, seed=seed, resamples=resamples)
    return Estimate(*interval, n=int(np.size(np.asarray(values))))


def paired_difference(
    before: ArrayLike, after: ArrayLike, *, seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """Return the mean of ``after - before`` over the same examples and its 95% interval.

    Examples are drawn in pairs, so what they have in common (easy and hard questions) cancels.

    Raises:
        ValueError: the two differ in length, there are no values, or one is not finite.
    """
    first, second = _finite(before), _finite(after)
    if first.shape != second.shape:
        raise ValueError(
            f"{len(first)} values before and {len(second)} after; "
            "a paired difference needs the same examples in the same order"
        )
    return bootstrap_mean(second - first, seed=seed, resamples=resamples)


@dataclass(frozen=True)
class Comparison:
    """One metric before and after on the same examples, with the paired difference."""

    name: str
    before: Estimate
    after: Estimate
    difference: Estimate
    changed: int
    """Examples whose value differs."""

    @property
    def is_beyond_noise(self) -> bool:
        """Whether the difference's interval leaves 0 out and enough examples changed."""
        leaves_zero_out = self.difference.low > 0 or self.difference.high < 0
        return leaves_zero_out and self.changed >= FEWEST_CHANGES

    @property
    def verdict(self) -> str:
        """The difference in words; one inside its noise is none."""
        if self.changed == 0:
            return "unchanged"
        if not self.is_beyond_noise:
            return "no difference beyond noise"
        return "improved" if self.difference.mean > 0 else "worse"


def compare(
    name: str,
    before: Sequence[float],
    after: Sequence[float],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Comparison:
    """Return one metric's `Comparison` from its values per example, in the same order."""
    difference = paired_difference(before, after, seed=seed, resamples=resamples)
    return Comparison(
        name,
        estimate(before, seed=seed, resamples=resamples),
        estimate(after, seed=seed, resamples=resamples),
        Estimate(*difference, n=len(before)),
        changed=int(np.count_nonzero(np.asarray(before) != np.asarray(after))),
    )


def _finite(values: ArrayLike) -> Float[np.ndarray, " n"]:
    sample = np.asarray(values, dtype=np.float64).reshape(-1)
    if sample.size == 0:
        raise ValueError("an interval needs at least one value")
    if not np.isfinite(sample).all():
        raise ValueError(f"value {int(np.flatnonzero(~np.isfinite(sample))[0])} is not finite")
    return sample


def _resampled_means(
    sample: Float[np.ndarray, " n"], *, seed: int, resamples: int
) -> Float[np.ndarray, " resamples"]:
    generator = np.random.default_rng(seed)
    rows = max(1, min(resamples, _DRAWS_AT_ONCE // sample.size))
    means = [
        sample[
            generator.integers(sample.size, size=(min(rows, resamples - start), sample.size))
        ].mean(axis=1)
        for start in range(0, resamples, rows)
    ]
    return np.concatenate(means)
