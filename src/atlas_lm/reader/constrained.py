"""Answers that may be written and no others: which tokens can follow a beginning."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property

from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.logs import warn_once
from atlas_lm.types import Generation

_BEYOND = 1 << 31
"""Greater than any token id."""


def warn_of_cut_target(most: int) -> None:
    """Say, once, that targets are trained on or scored without their end."""
    warn_once(
        f"reader.target_maxlength={most} cuts a target: its end is neither trained on nor scored, "
        "and choices that begin alike look alike; raise it"
    )


def cut_answer(answer: str, most: int) -> InputError:
    """Return what to raise where an allowed answer could not be written whole."""
    return InputError(
        f"the allowed answers are longer than reader.target_maxlength={most} tokens, such as "
        f"{answer!r}; raise it (--set reader.target_maxlength=N)"
    )


class AllowedAnswers:
    """A set of token sequences, sorted: a step costs a few bisections, whatever the set's size.

    Each sequence holds its end, so an answer that is the beginning of another can be told from it.

    Raises:
        InputError: the set is empty.
    """

    def __init__(self, token_ids: Iterable[Sequence[int]]) -> None:
        self._rows = sorted({tuple(row) for row in token_ids})
        if not self._rows:
            raise InputError("no answer is allowed; give at least one")

    def __len__(self) -> int:
        return len(self._rows)

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest answer, its end included."""
        return max(map(len, self._rows))

    def following(self, beginning: Sequence[int]) -> list[int]:
        """Return the tokens that can follow a beginning, ascending; none behind a whole answer."""
        begin = tuple(beginning)
        depth, tokens = len(begin), []
        place = bisect_left(self._rows, begin)
        end = bisect_left(self._rows, (*begin, _BEYOND))
        while place < end:
            if len(self._rows[place]) > depth:
                tokens.append(self._rows[place][depth])
                place = bisect_left(self._rows, (*begin, tokens[-1] + 1), place, end)
            else:
                place += 1
        return tokens


class Constraint:
    """What may be written next for each query of a batch."""

    def __init__(
        self, answers: Sequence[AllowedAnswers], prompts: Sequence[Sequence[int]] | None = None
    ) -> None:
        self._answers = answers
        self._begun = [
            tuple(prompt) if prompt and query.following(prompt) else ()
            for query, prompt in zip(answers, prompts or [()] * len(answers), strict=True)
        ]
        """What of each query's answer its prompt has written already."""

    def bounded(self, generation: Generation) -> Generation:
        """Return ``generation`` with room for every answer: none is cut to what is not allowed."""
        longest = max((answers.longest for answers in self._answers), default=0)
        return replace(generation, max_new_tokens=max(generation.max_new_tokens, longest))

    def following(self, query: int, written: Sequence[int]) -> list[int]:
        """Return the tokens that may follow what was written for a query behind its prompt."""
        return self._answers[query].following((*self._begun[query], *written))
