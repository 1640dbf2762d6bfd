"""Answers that may be written and no others: which tokens can follow a beginning."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cached_property

from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.logs import warn_once
from atlas_lm.types import Generated, Generation

_BEYOND = 1 << 31
"""Greater than any token id."""


def warn_of_cut_target(most: int) -> None:
    """Say, once, that targets are trained on or scored without their end."""
    warn_once(
        f"reader.settings.target_maxlength={most} cuts a target: its end is neither trained on nor "
        "scored, and choices that begin alike look alike; raise it"
    )


def cut_answer(answer: str, most: int) -> InputError:
    """Return what to raise where an allowed answer could not be written whole."""
    return InputError(
        f"the allowed answers are longer than reader.settings.target_maxlength={most} tokens, such "
        f"as {answer!r}; raise it (--set reader.settings.target_maxlength=N)"
    )


class AllowedAnswers:
    """A set of token sequences, sorted: a step costs a few bisections, whatever the set's size.

    Each sequence holds its end, so an answer that is the beginning of another can be told from it.
    Of ``targets`` that a tokenizer cannot tell apart the first stands for all.

    Raises:
        InputError: the set is empty.
    """

    def __init__(self, token_ids: Iterable[Sequence[int]], targets: Iterable[str]) -> None:
        found: dict[tuple[int, ...], str] = {}
        for row, target in zip(token_ids, targets, strict=True):
            found.setdefault(tuple(row), target)
        if not found:
            raise InputError("no answer is allowed; give at least one")
        self._rows = sorted(found)
        self._targets = [found[row] for row in self._rows]

    def __len__(self) -> int:
        return len(self._rows)

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest answer, its end included."""
        return max(map(len, self._rows))

    def target(self, token_ids: Sequence[int]) -> str | None:
        """Return the target that a whole answer stands for; None where it is none of the set."""
        row = tuple(token_ids)
        place = bisect_left(self._rows, row)
        return self._targets[place] if self._rows[place : place + 1] == [row] else None

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
        """Return ``generation`` with room for every answer, and none too short to be written."""
        longest = max((answers.longest for answers in self._answers), default=0)
        most = max(generation.max_new_tokens, longest)
        return replace(generation, max_new_tokens=most, min_new_tokens=0)

    def following(self, query: int, written: Sequence[int]) -> list[int]:
        """Return the tokens that may follow what was written for a query behind its prompt."""
        return self._answers[query].following((*self._begun[query], *written))

    def is_whole(self, query: int, written: Sequence[int]) -> bool:
        """Return whether nothing may follow what was written for a query."""
        return not self.following(query, written)

    def exact(
        self,
        written: Sequence[Generated],
        text: Callable[[str], str],
        prompts: Sequence[str] | None = None,
    ) -> list[Generated]:
        """Return answers in the letters of their targets, which not every tokenizer keeps.

        Args:
            written: one answer a query, its end among its tokens.
            text: of a target, what is written of it.
            prompts: the text of each query's prompt, which is no part of the answer.
        """
        return [
            self._exact(query, answer, text, prompts[query] if prompts else "")
            for query, answer in enumerate(written)
        ]

    def _exact(
        self, query: int, answer: Generated, text: Callable[[str], str], prompt: str
    ) -> Generated:
        begun = self._begun[query]
        target = self._answers[query].target((*begun, *answer.token_ids))
        if target is None:
            return answer
        whole, prompt = text(target).strip(), prompt.strip() if begun else ""
        if not whole.startswith(prompt):
            return answer
        return replace(answer, text=whole.removeprefix(prompt).strip())
