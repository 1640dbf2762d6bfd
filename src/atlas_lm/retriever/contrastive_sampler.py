"""Pairs for contrastive training, read by row as they are needed, from one corpus or many.

Which passages a step sees, and how they are cut, is a function of (seed, step, place in the batch)
alone. Nothing is kept between steps: a corpus of any size costs no memory, a run can go on at any
step, and each of several processes makes only its own part of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from transformers import PreTrainedTokenizerBase

from atlas_lm.passages.store import PassageStore
from atlas_lm.retriever.contrastive_config import ContrastiveConfig
from atlas_lm.retriever.contrastive_data import Pair, PassageTokens, make_pair
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.logs import warn_once
from atlas_lm.types import Passage

REDRAWS = 100
"""Passages drawn in the place of one without text before that is an error."""


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """Passages of one language, or of one source."""

    name: str = ""
    """What it is called in messages: a language, a source."""
    passages: tuple[str, ...] = ()
    """Passage files."""
    weight: float = 1.0
    """Factor on its share of the pairs; see `CorporaConfig.exponent`."""

    def __post_init__(self) -> None:
        if not self.passages:
            raise InputError(f"corpora: {self.name or 'one of them'} names no passage file")
        if not self.weight > 0:
            raise InputError(f"corpora: {self.name}: weight={self.weight} must be positive")


@dataclass(frozen=True, kw_only=True)
class CorporaConfig:
    """Several corpora and how they are mixed."""

    corpora: tuple[CorpusConfig, ...] = ()
    exponent: float = 1.0
    """A corpus of n passages is drawn from in proportion to weight · n^exponent: 1 by size, 0 all
    alike (mContriever's languages), between them rarer languages more often than they occur."""
    document_maxlength: int = 256
    """Tokens of a passage that pairs are cut from: a random window of a longer one."""


@dataclass(frozen=True)
class PairSampler:
    """Batches of pairs by step."""

    stores: Sequence[PassageStore]
    tokenizer: PreTrainedTokenizerBase
    cfg: ContrastiveConfig
    batch_size: int
    seed: int
    weights: Sequence[float] = ()
    """One a store, all alike where empty; times the store's size to the ``exponent``."""
    exponent: float = 1.0
    document_maxlength: int = 256
    names: Sequence[str] = field(default=())

    def __post_init__(self) -> None:
        total = sum(map(len, self.stores))
        if total < 2:
            raise InputError(f"contrastive: {total} passages; at least 2 are needed")
        if self.weights and len(self.weights) != len(self.stores):
            raise InputError(f"{len(self.weights)} weights for {len(self.stores)} corpora")

    @property
    def shares(self) -> np.ndarray:
        """The expected part of each corpus in a batch; they sum to 1."""
        sizes = np.array([len(store) for store in self.stores], dtype=np.float64)
        share = np.array(self.weights or [1.0] * len(sizes)) * sizes**self.exponent
        normed: np.ndarray = share / share.sum()
        return normed

    def rows(self, step: int) -> list[tuple[int, int]]:
        """Return a step's passages as (corpus, row).

        No passage comes twice in a batch, unless a corpus has fewer than are drawn from it.
        """
        rng = np.random.default_rng((self.seed, step))
        counts = rng.multinomial(self.batch_size, self.shares)
        drawn = []
        for corpus, (store, count) in enumerate(zip(self.stores, counts.tolist(), strict=True)):
            again = count > len(store)
            rows = rng.choice(len(store), count, replace=again)
            drawn += [(corpus, int(row)) for row in rows]
        order = rng.permutation(len(drawn))
        return [drawn[place] for place in order]

    def pairs(self, step: int, share: range) -> list[Pair]:
        """Return the pairs at the places ``share`` of a step's batch, as token ids.

        A passage without text gives way to another of its corpus, drawn for this place.

        Raises:
            InputError: hardly any passage of a corpus has text.
        """
        rows = self.rows(step)
        return [
            make_pair(tokens, self.cfg, np.random.default_rng((self.seed, step, 1, place)))
            for place, tokens in zip(share, self._tokens(step, rows, share), strict=True)
        ]

    def named(self, step: int, share: range) -> list[str]:
        """Return the ids of the passages that `pairs` makes its pairs of."""
        rows = self.rows(step)
        return [self._passage(step, rows, place).id for place in share]

    def _tokens(
        self, step: int, rows: Sequence[tuple[int, int]], share: range
    ) -> list[PassageTokens]:
        passages = [self._passage(step, rows, place) for place in share]
        titles, texts = (
            self.tokenizer(
                [getattr(passage, part) for passage in passages],
                add_special_tokens=False,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            ).input_ids
            for part in ("heading", "text")
        )
        return [
            PassageTokens(title, self._window(text or [0], step, place))
            for title, text, place in zip(titles, texts, share, strict=True)
        ]

    def _passage(self, step: int, rows: Sequence[tuple[int, int]], place: int) -> Passage:
        corpus, row = rows[place]
        store = self.stores[corpus]
        if (passage := store[row]).text.strip():
            return passage
        taken = set(rows)
        said = f"{store.place(row)}: passage {passage.id!r} has no text"
        rng = np.random.default_rng((self.seed, step, 3, place))
        for other in rng.integers(len(store), size=REDRAWS).tolist():
            if (corpus, other) not in taken and store[other].text.strip():
                warn_once(f"passages without text give way to others, such as {said}")
                return store[other]
        raise InputError(f"{said}, and of {REDRAWS} others none has that the step could take")

    def _window(self, ids: list[int], step: int, place: int) -> list[int]:
        if len(ids) <= self.document_maxlength:
            return ids
        rng = np.random.default_rng((self.seed, step, 2, place))
        start = int(rng.integers(0, len(ids) - self.document_maxlength + 1))
        return ids[start : start + self.document_maxlength]
