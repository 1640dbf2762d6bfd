"""Answers written token by token over a cached prompt: greedy, or with beams."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from atlas_lm.reader.constrained import Constraint
from atlas_lm.types import Generation

Step = Callable[[Int64[Tensor, " rows"], Int64[Tensor, " rows"]], Float[Tensor, "rows vocabulary"]]
"""Feeds one token to each row, after the rows have been reordered; returns the next logits."""


@dataclass(frozen=True)
class Ends:
    """What ends an answer."""

    tokens: Int64[Tensor, " ends"]
    """Tokens that end one by themselves; none is among the first ``min_new_tokens``."""
    is_whole: Callable[[int, Sequence[int]], bool]
    """Whether a query's answer has ended, as the tokens of its end can be several."""


@dataclass(frozen=True)
class Written:
    """Generated token ids, the end included, and the sum of their log-probabilities in nats."""

    token_ids: tuple[int, ...]
    log_prob: float


def greedy(
    logits: Float[Tensor, "bsz vocabulary"],
    step: Step,
    ends: Ends,
    generation: Generation,
    constraint: Constraint | None = None,
) -> list[Written]:
    """Write the likeliest token until the answer has ended or is as long as it may be.

    A ``constraint`` leaves out what may not be written; log-probabilities are the model's own.
    """
    bsz = len(logits)
    rows = torch.arange(bsz, device=logits.device)
    alive = torch.ones(bsz, dtype=torch.bool, device=logits.device)
    total = torch.zeros(bsz, dtype=torch.float64, device=logits.device)
    written: list[list[int]] = [[] for _ in range(bsz)]
    for position in range(generation.max_new_tokens):
        scores = _log_probs(logits, ends.tokens, position, generation)
        _constrain(scores, constraint, list(enumerate(written)))
        log_prob, token = scores.max(-1)
        total += torch.where(alive, log_prob.double(), 0.0)
        for row in alive.nonzero().flatten().tolist():
            written[row].append(int(token[row]))
        long = position >= generation.min_new_tokens
        ended = [long and ends.is_whole(row, ids) for row, ids in enumerate(written)]
        alive = ~torch.tensor(ended, device=alive.device)
        if not alive.any() or position + 1 == generation.max_new_tokens:
            break
        logits = step(token, rows)
    return [Written(tuple(ids), float(sum_)) for ids, sum_ in zip(written, total, strict=True)]


def beam_search(
    logits: Float[Tensor, "bsz vocabulary"],
    step: Step,
    ends: Ends,
    generation: Generation,
    constraint: Constraint | None = None,
) -> list[Written]:
    """Keep the best ``num_beams`` unfinished answers of every query; return the best finished one.

    ``logits`` has one row a query; ``step`` receives ``bsz * num_beams`` rows, whose origin indexes
    the rows of the step before (of ``logits``, the first time). An answer's score is its
    log-probability / length ** length_penalty; a query is done when ``num_beams`` answers are
    finished and no unfinished one can beat the worst of them at its present length. Answers that
    differ in their end alone are one answer, under the likeliest of ``ends``. A ``constraint``
    leaves out what may not be written.
    """
    beams = [_Beams(generation, partial(ends.is_whole, i)) for i in range(len(logits))]
    rows = torch.zeros(len(logits), 1, device=logits.device)
    for position in range(generation.max_new_tokens):
        width = rows.shape[1]
        scores = _log_probs(logits, ends.tokens, position, generation)
        _constrain(
            scores, constraint, [(i, ids) for i, beam in enumerate(beams) for ids in beam.open]
        )
        scores = rows[..., None] + _one_end(scores, ends.tokens).view(len(beams), width, -1)
        best, flat = scores.flatten(1).topk(min(2 * generation.num_beams, scores[0].numel()), -1)
        token, origin = flat % scores.shape[-1], flat // scores.shape[-1]
        chosen = [
            beam.advance(*(part[i].tolist() for part in (best, token, origin)))
            for i, beam in enumerate(beams)
        ]
        if all(beam.done for beam in beams) or position + 1 == generation.max_new_tokens:
            break
        rows = torch.tensor([[c[0] for c in query] for query in chosen], device=logits.device)
        tokens = torch.tensor([c[1] for query in chosen for c in query], device=logits.device)
        origins = [i * width + c[2] for i, query in enumerate(chosen) for c in query]
        logits = step(tokens, torch.tensor(origins, device=logits.device))
    return [beam.best() for beam in beams]


class _Beams:
    """The unfinished and the finished answers of one query."""

    def __init__(self, generation: Generation, is_whole: Callable[[Sequence[int]], bool]) -> None:
        self._generation = generation
        self._is_whole = is_whole
        self._open: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
        self._finished: list[tuple[float, float, tuple[int, ...]]] = []
        self.done = False

    @property
    def open(self) -> list[tuple[int, ...]]:
        """What is written in each unfinished answer."""
        return [ids for _, ids in self._open]

    def advance(
        self, score: list[float], token: list[int], origin: list[int]
    ) -> list[tuple[float, int, int]]:
        """Take candidates, best first; return score, token and origin of those kept open."""
        width = self._generation.num_beams
        kept: list[tuple[float, int, int]] = []
        answers: list[tuple[float, tuple[int, ...]]] = []
        for rank, (total, new, source) in enumerate(zip(score, token, origin, strict=True)):
            ids = (*self._open[source][1], new)
            ends = len(ids) > self._generation.min_new_tokens and self._is_whole(ids)
            if ends and rank < width and total > -torch.inf:
                self._finish(total, ids)
            elif not ends and len(kept) < width:
                kept.append((total, new, source))
                answers.append((total, ids))
        while len(kept) < width:
            kept.append((-torch.inf, token[0], 0))
            answers.append((-torch.inf, (token[0],)))
        self._open = answers
        if len(self._finished) == width:
            reach = self._score(answers[0][0], len(answers[0][1]))
            self.done |= reach <= self._finished[-1][0]
        self.done |= bool(self._finished) and answers[0][0] == -torch.inf
        return kept

    def best(self) -> Written:
        """Return the best finished answer, or the best unfinished one if it scores higher."""
        if not self.done:
            for total, ids in self._open:
                if total > -torch.inf:
                    self._finish(total, ids)
        _, total, ids = self._finished[0]
        return Written(ids, total)

    def _finish(self, total: float, ids: tuple[int, ...]) -> None:
        if self.done:
            return
        self._finished.append((self._score(total, len(ids)), total, ids))
        self._finished.sort(key=lambda answer: -answer[0])
        del self._finished[self._generation.num_beams :]

    def _score(self, total: float, length: int) -> float:
        return total / float(length**self._generation.length_penalty)


def _log_probs(
    logits: Tensor, ends: Int64[Tensor, " ends"], position: int, generation: Generation
) -> Float[Tensor, "rows vocabulary"]:
    log_prob = logits.float().log_softmax(-1)
    if position < generation.min_new_tokens:
        log_prob = log_prob.index_fill(-1, ends, -torch.inf)
    return log_prob


def _one_end(
    scores: Float[Tensor, "rows vocabulary"], ends: Int64[Tensor, " ends"]
) -> Float[Tensor, "rows vocabulary"]:
    """Return the scores with every row's likeliest end alone, the others at -inf.

    So at most one of a row's candidates is finished, and among the best ``2 * num_beams`` of a
    query at least ``num_beams`` are not, however many tokens end an answer.
    """
    if len(ends) < 2:
        return scores
    of_ends = scores[:, ends]
    best, which = of_ends.max(-1, keepdim=True)
    alone = torch.full_like(of_ends, -torch.inf).scatter(-1, which, best)
    return scores.index_copy(-1, ends, alone)


def _constrain(
    scores: Float[Tensor, "rows vocabulary"],
    constraint: Constraint | None,
    written: Sequence[tuple[int, Sequence[int]]],
) -> None:
    """Set the scores of tokens that may not follow to -inf; a row that is whole keeps its own.

    ``written`` has the query and the tokens so far of every row.
    """
    if constraint is None:
        return
    for row, (query, ids) in enumerate(written):
        following = constraint.following(query, ids)
        if following:
            kept = scores[row, following]
            scores[row] = -torch.inf
            scores[row, following] = kept
