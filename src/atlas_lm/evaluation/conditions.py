"""The same questions answered without passages, with retrieved, ideal and random ones.

Closed book says what the reader knows, oracle passages what it could do with a perfect retriever,
random ones what reading costs where nothing is to be found.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, overload

import numpy as np
from numpy.typing import NDArray

from atlas_lm.evaluation.evaluate import DEFAULT_KS, Evaluation
from atlas_lm.evaluation.kilt import PAGE_FIELD
from atlas_lm.evaluation.measure import measure
from atlas_lm.evaluation.measures import RECALL
from atlas_lm.evaluation.metrics import answer_matcher
from atlas_lm.model import Atlas
from atlas_lm.passages.store import PassageStore
from atlas_lm.runtime.errors import InputError
from atlas_lm.types import Batch, Example, Passage

CONDITIONS = ("closed", "open", "oracle", "random")
ORACLE_DEPTH = 100
"""Retrieved passages among which answer-bearing ones are looked for."""

_OF_A_PAGE = 100
"""Passages that a page may have, for the number drawn."""

Given = Sequence[Sequence[Passage]]
"""The passages of every example, in their order; as many for each."""


def measure_conditions(
    atlas: Atlas,
    examples: Sequence[Example],
    *,
    names: Sequence[str] = CONDITIONS,
    ks: Sequence[int] = DEFAULT_KS,
    bsz: int = 8,
    seed: int = 0,
) -> dict[str, Evaluation]:
    """Return what the model answers under each condition, from as many passages as it reads.

    - ``closed``: no passages;
    - ``open``: those that the model retrieves, or that the data file gives;
    - ``oracle``: the gold passages first, or where none are named those of the first hundred that
      are of a page of evidence or else contain an answer, and then the others in their order;
    - ``random``: passages drawn by ``seed`` from the corpus, or from those of other questions;
      neither gold nor excluded ones, nor any of a page of evidence.

    Raises:
        InputError: the model is closed book, or the corpus is too small to draw from.
    """
    if atlas.config.context.passages_from == "none":
        raise InputError(
            "closed book has nothing to compare with; open an index (--index DIR), or use "
            "--passages-from file"
        )
    found: dict[str, Evaluation] = {}
    for name in names:
        if name == "closed":
            found[name] = read_closed(atlas, examples, bsz=bsz)
        elif name == "open":
            found[name] = measure(atlas, examples, ks=ks, bsz=bsz)
        elif name == "oracle":
            found[name] = read_given(atlas, examples, oracle_passages(atlas, examples), bsz=bsz)
        else:
            drawn = random_passages(atlas, examples, seed=seed)
            found[name] = read_given(atlas, examples, drawn, bsz=bsz)
    return found


def read_closed(atlas: Atlas, examples: Sequence[Example], *, bsz: int = 8) -> Evaluation:
    """Return what the reader answers without any passage."""
    return measure(_reading(atlas, "none", atlas.config.context.n_context), examples, bsz=bsz)


def read_given(
    atlas: Atlas, examples: Sequence[Example], passages: Given, *, bsz: int = 8
) -> Evaluation:
    """Return what the reader answers from these passages.

    Raises:
        ValueError: the examples have different numbers of passages.
    """
    counts = {len(row) for row in passages}
    if len(counts) != 1:
        raise ValueError(f"examples with {sorted(counts)} passages; give each as many")
    given = [
        replace(example, passages=tuple(row))
        for example, row in zip(examples, passages, strict=True)
    ]
    return measure(_reading(atlas, "file", counts.pop()), given, bsz=bsz)


def oracle_passages(atlas: Atlas, examples: Sequence[Example]) -> list[list[Passage]]:
    """Return the passages of every example with the good ones first, ``n_context`` of them."""
    n_context = atlas.config.context.n_context
    ranked = []
    for example, passages in zip(examples, candidates(atlas, examples), strict=True):
        gold = _gold(atlas, example)
        ids = {passage.id for passage in gold}
        others = [passage for passage in passages if passage.id not in ids]
        if not gold:
            is_good = _judge(atlas, example)
            others.sort(key=lambda passage: not is_good(passage))
        ranked.append([*gold, *others][:n_context])
    return ranked


def _judge(atlas: Atlas, example: Example) -> Callable[[Passage], bool]:
    """Return what tells good passages where none are named: by page, by answer, or none is.

    Labels and options are not sought in passages, nor answers in what is not read of them.
    """
    if example.provenance:
        return _on_page(example)
    if RECALL not in example.measures:
        return lambda _: False
    matches = answer_matcher(example.answers)

    def holds_answer(passage: Passage) -> bool:
        return matches(f"{passage.heading}\n{passage.text}")

    return lambda passage: (
        holds_answer(passage) and holds_answer(atlas.reader.legible(example.query, passage))
    )


def _on_page(example: Example) -> Callable[[Passage], bool]:
    pages = frozenset[str]().union(*example.provenance)
    return lambda passage: str(passage.metadata.get(PAGE_FIELD)) in pages


def candidates(atlas: Atlas, examples: Sequence[Example]) -> list[Sequence[Passage]]:
    """Return the passages that the oracle orders: the first hundred retrieved, or all given."""
    if atlas.config.context.passages_from == "file":
        return [example.passages or () for example in examples]
    depth = min(ORACLE_DEPTH, atlas.n_findable)
    found: list[Sequence[Passage]] = []
    for start in range(0, len(examples), 64):
        batch = Batch(tuple(examples[start : start + 64]))
        found += atlas.retrieve(batch, max(depth, atlas.config.context.n_context)).passages
    return found


def random_passages(atlas: Atlas, examples: Sequence[Example], *, seed: int) -> list[list[Passage]]:
    """Return ``n_context`` passages for every example that are neither gold, given nor excluded.

    Raises:
        InputError: there are too few.
    """
    n_context = atlas.config.context.n_context
    pool = _pool(atlas, examples)
    drawn = []
    for example in examples:
        draw = random.Random(f"{seed} {example.id}")
        hidden = example.gold_passage_ids | example.excluded_passage_ids
        hidden |= {passage.id for passage in example.passages or ()}
        of_evidence = _on_page(example)
        spare = len(hidden) + _OF_A_PAGE * sum(map(len, example.provenance))
        places = draw.sample(range(len(pool)), min(len(pool), n_context + spare))
        chosen = [
            passage
            for place in places
            if (passage := pool[place]).id not in hidden and not of_evidence(passage)
        ]
        if len(chosen) < n_context:
            raise InputError(
                f"example {example.id!r}: only {len(chosen)} passages that are not its own to draw "
                f"from, n_context={n_context}; lower --n-context or leave the random condition out"
            )
        drawn.append(chosen[:n_context])
    return drawn


class _Corpus(Sequence[Passage]):
    """The passages of a store that a search may return, read when asked for."""

    def __init__(self, store: PassageStore, rows: NDArray[np.int64]) -> None:
        self._store, self._rows = store, rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, place: int) -> Passage: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Passage]: ...
    def __getitem__(self, place: int | slice) -> Passage | Sequence[Passage]:
        if isinstance(place, slice):
            return self._store.passages(self._rows[place])
        return self._store[int(self._rows[place])]


def _pool(atlas: Atlas, examples: Sequence[Example]) -> Sequence[Passage]:
    if atlas.config.context.passages_from == "file" or atlas.store is None:
        return [passage for example in examples for passage in example.passages or ()]
    allowed = atlas.allowed_rows()
    findable = np.ones(len(atlas.store), dtype=bool) if allowed is None else allowed.numpy().copy()
    if atlas.store.hidden is not None:
        findable[atlas.store.hidden] = False
    return _Corpus(atlas.store, np.flatnonzero(findable))


def _gold(atlas: Atlas, example: Example) -> list[Passage]:
    """Return the example's gold passages, as far as they are in the corpus or among those given."""
    wanted = sorted(example.gold_passage_ids - example.excluded_passage_ids)
    if atlas.config.context.passages_from == "file" or atlas.store is None:
        return [p for p in example.passages or () if p.id in example.gold_passage_ids]
    return atlas.store.passages(atlas.store.rows_of(wanted, missing="skip")) if wanted else []


def _reading(atlas: Atlas, passages_from: Literal["file", "none"], n_context: int) -> Atlas:
    """Return the model reading given passages, or none."""
    context = replace(
        atlas.config.context,
        passages_from=passages_from,
        n_context=n_context,
        retriever_n_context=max(n_context, atlas.config.context.retriever_n_context),
        where="",
        as_of="",
    )
    return atlas.with_config(replace(atlas.config, context=context))
