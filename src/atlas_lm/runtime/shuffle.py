"""The order of an epoch as a function: which example comes at a place.

Up to `ENUMERATED` examples the permutation is drawn and kept, 8 bytes an example. Beyond, it is
computed place by place and nothing is kept: a Feistel network of `ROUNDS` rounds over the smallest
even number of bits that can count the examples, applied again while the result is too large
("cycle walking": Black and Rogaway, Ciphers with Arbitrary Finite Domains, 2002). Four rounds of a
random function make a permutation that no statistic of an order could tell from a drawn one (Luby
and Rackoff, 1988); walking takes less than four turns on average.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

ENUMERATED = 1_000_000
"""The most examples whose order is drawn and kept."""
ROUNDS = 6
_MASK = (1 << 64) - 1


class Order(Protocol):
    """A permutation of the numbers below its length."""

    def __getitem__(self, place: int) -> int:
        """Return the example that comes at a place."""
        ...


def order_of_epoch(count: int, seed: int, epoch: int) -> Order:
    """Return the order of ``count`` examples in an epoch; it follows from the numbers alone."""
    if count <= ENUMERATED:
        return np.random.default_rng((seed, epoch)).permutation(count)
    return Feistel(count, seed, epoch)


class Epochs:
    """Which of ``count`` examples comes at a position, counted over all epochs.

    The order of the epoch asked for last is kept.
    """

    def __init__(self, count: int, seed: int) -> None:
        self._count, self._seed = count, seed
        self._kept: tuple[int, Order] | None = None

    def __getitem__(self, position: int) -> int:
        epoch, place = divmod(position, self._count)
        kept = self._kept
        if kept is None or kept[0] != epoch:
            self._kept = kept = epoch, order_of_epoch(self._count, self._seed, epoch)
        return int(kept[1][place])


class Feistel:
    """A permutation of the numbers below ``count``, computed place by place."""

    def __init__(self, count: int, seed: int, epoch: int) -> None:
        self._count = count
        self._half = (max(count - 1, 1).bit_length() + 1) // 2
        self._keys = np.random.default_rng((seed, epoch)).integers(1 << 63, size=ROUNDS).tolist()

    def __getitem__(self, place: int) -> int:
        if not 0 <= place < self._count:
            raise IndexError(f"place {place} of {self._count}")
        place = self._permuted(place)
        while place >= self._count:
            place = self._permuted(place)
        return place

    def _permuted(self, number: int) -> int:
        mask = (1 << self._half) - 1
        left, right = number >> self._half, number & mask
        for key in self._keys:
            left, right = right, left ^ (_mixed(right ^ key) & mask)
        return left << self._half | right


def _mixed(number: int) -> int:
    """Return 64 bits that all depend on all of ``number`` (splitmix64, Steele et al. 2014)."""
    number = (number + 0x9E3779B97F4A7C15) & _MASK
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    number = (number ^ number >> 27) * 0x94D049BB133111EB & _MASK
    return number ^ number >> 31
