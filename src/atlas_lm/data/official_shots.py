"""Rows drawn by seed from a file that is read as a stream: few-shot splits and dev splits.

A draw depends on the seed and on what the rows say, neither on their order nor on their ids; of
equal rows one can be drawn. A smaller draw is the beginning of a larger one.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson

from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.files import atomic_path
from atlas_lm.runtime.logs import notice


@dataclass(frozen=True)
class Line:
    """A row of a file."""

    raw: bytes
    row: dict[str, object]
    content: bytes
    """A digest of what the row says besides its id."""

    @classmethod
    def parse(cls, raw: bytes) -> Line:
        """Return the row on a line."""
        row = orjson.loads(raw)
        said = {name: value for name, value in row.items() if name != "id"}
        content = orjson.dumps(said, option=orjson.OPT_SORT_KEYS)
        return cls(raw, row, hashlib.sha256(content).digest())

    def key(self, seed: int | str) -> int:
        """Return the row's place in the draw of a seed."""
        return int.from_bytes(hashlib.sha256(f"{seed}\0".encode() + self.content).digest()[:16])


class Draw:
    """The ``k`` rows with the smallest keys, of a stream: for each stratum its share."""

    def __init__(self, k: int, seed: int | str, *, stratum: str | None = None) -> None:
        self.k = k
        self._seed = seed
        self._stratum = stratum
        self._kept: dict[str, list[tuple[int, bytes]]] = {}
        self._keys: dict[str, set[int]] = {}

    def add(self, line: Line) -> None:
        """Consider a row."""
        key = line.key(self._seed)
        stratum = str(line.row.get(self._stratum)) if self._stratum else ""
        kept, keys = self._kept.setdefault(stratum, []), self._keys.setdefault(stratum, set())
        if key in keys or (len(kept) == self.k and -key < kept[0][0]):
            return
        keys.add(key)
        heapq.heappush(kept, (-key, line.raw))
        if len(kept) > self.k:
            keys.remove(-heapq.heappop(kept)[0])

    def lines(self) -> list[bytes]:
        """Return the drawn rows in the order of their keys; fewer where there are not so many.

        Strata get equal shares, the first ones in alphabetical order one more where ``k`` does not
        divide; what a small stratum cannot give goes to the others.
        """
        pools = {name: sorted(pool, reverse=True) for name, pool in sorted(self._kept.items())}
        taken = dict.fromkeys(pools, 0)
        left = self.k
        while left and any(taken[name] < len(pool) for name, pool in pools.items()):
            for name, pool in pools.items():
                if left and taken[name] < len(pool):
                    taken[name] += 1
                    left -= 1
        drawn = [item for name, pool in pools.items() for item in pool[: taken[name]]]
        return [line for _, line in sorted(drawn, reverse=True)]


def write_shots(
    train: Path, out: Path, ks: Iterable[int], seeds: int, *, stratum: str | None, required: bool
) -> None:
    """Write ``out/K-seedS.jsonl`` for every K and seed, drawn from ``train`` in one reading.

    A K that is larger than the file is passed over, and said so.

    Raises:
        InputError: it is, and ``required``.
    """
    draws = [Draw(k, seed, stratum=stratum) for k in ks for seed in range(seeds)]
    for raw in _lines(train) if draws else ():
        line = Line.parse(raw)
        for draw in draws:
            draw.add(line)
    for number, draw in enumerate(draws):
        drawn = draw.lines()
        if len(drawn) < draw.k:
            if required:
                raise InputError(
                    f"--shots {draw.k}: {train.name} has {len(drawn)} distinct rows; ask for fewer"
                )
            if number % seeds == 0:
                notice(f"no {draw.k}-shot splits: {train.name} has {len(drawn)} distinct rows")
            continue
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{draw.k}-seed{number % seeds}.jsonl").write_bytes(b"".join(drawn))


def split_off(train: Path, dev: Path, k: int, *, option: str, rest: Path | None = None) -> None:
    """Move ``k`` rows of ``train``, drawn with a fixed seed, to ``dev``, each in their order.

    Args:
        train: the rows.
        dev: gets the drawn ones.
        k: how many.
        option: what messages call ``k``.
        rest: gets the others; ``train`` itself where None.

    Raises:
        InputError: no row would be left.
    """
    draw = Draw(k, "dev")
    for raw in _lines(train):
        draw.add(Line.parse(raw))
    drawn = {Line.parse(raw).content for raw in draw.lines()}
    divide(train, dev, lambda raw: Line.parse(raw).content in drawn, rest=rest)
    if not (rest or train).stat().st_size:
        raise InputError(f"{option}: takes every row of the train split; ask for fewer")


def divide(
    train: Path, dev: Path, is_dev: Callable[[bytes], bool], *, rest: Path | None = None
) -> None:
    """Write the lines of ``train`` that are dev's to ``dev`` and the others to ``rest``."""
    dev.parent.mkdir(parents=True, exist_ok=True)
    with (
        atomic_path(rest or train) as temporary,
        open(temporary, "wb") as others,
        open(dev, "wb") as drawn,
    ):
        for line in _lines(train):
            (drawn if is_dev(line) else others).write(line)


def _lines(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        yield from file
