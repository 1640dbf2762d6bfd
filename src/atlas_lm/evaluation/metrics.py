"""Answers and ranked passages, scored. Every metric is a fraction in [0, 1].

Answers are compared after SQuAD's normalisation (Rajpurkar et al. 2016): lower case, without ASCII
punctuation, without the articles a, an, the, and with single spaces.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from functools import cache
from typing import Any

from atlas_lm.runtime.normalization import normalize_answer

MRR_DEPTH = 20
"""Passages in which `mrr` looks for a relevant one."""

_WORD = re.compile(r"[^\W_]+")
_CHUNK = re.compile(r"\S+")


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """Return 1 where the prediction equals one of the answers after normalisation, else 0."""
    return _best(_equal, prediction, answers)


def accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Return 1 where the prediction is one of the answers, letter for letter, else 0.

    As KILT counts discrete outputs such as titles (Petroni et al. 2021, section 5): what exact
    match and F1 normalise tells one title from another.
    """
    return float(prediction.strip() in answers)


def f1(prediction: str, answers: Sequence[str]) -> float:
    """Return the best F1 of the prediction's tokens against those of any answer.

    Tokens are the words of the normalised texts, counted as often as they occur. Where both sides
    normalise to nothing F1 is 1, as exact match is.
    """
    return _best(_token_f1, prediction, answers)


def rouge_l(prediction: str, answers: Sequence[str]) -> float:
    """Return the best ROUGE-L F-measure of the prediction against any answer (Lin 2004).

    It is that of the ``rouge-score`` package without stemming, over lower-cased words of letters
    and digits in any script; for ASCII these are the package's own words.
    """
    return _best(_longest_common, prediction, answers)


def has_answer(text: str, answers: Sequence[str]) -> bool:
    """Return whether ``text`` contains one of the answers, word for word.

    The normalised answer must be a substring of the normalised text that begins and ends at word
    boundaries: "art" is not in "party". An answer that normalises to nothing is in no text.
    Languages written without spaces have no word boundaries to begin at; a match there needs the
    answer to stand between spaces.
    """
    return answer_matcher(answers)(text)


def answer_matcher(answers: Sequence[str]) -> Callable[[str], bool]:
    """Return `has_answer` for these answers, which are normalised once."""
    wanted = {f" {answer} " for answer in map(normalize_answer, answers) if answer}

    def matches(text: str) -> bool:
        words = f" {normalize_answer(text)} "
        return any(answer in words for answer in wanted)

    return matches


def answer_spans(text: str, answers: Sequence[str]) -> list[tuple[int, int]]:
    """Return where answers stand in ``text``, as (start, end), in order and without overlap.

    There is one exactly where `has_answer` is true. Of overlapping answers the longest is kept.
    Punctuation around a span is left out of it.
    """
    words = [
        (word, span.span())
        for span in _CHUNK.finditer(text)
        for word in normalize_answer(span.group()).split()
    ]
    found: list[tuple[int, int]] = []
    for wanted in {tuple(normalize_answer(answer).split()) for answer in answers} - {()}:
        for start in range(len(words) - len(wanted) + 1):
            stretch = words[start : start + len(wanted)]
            if tuple(word for word, _ in stretch) == wanted:
                found.append(_trim(text, stretch[0][1][0], stretch[-1][1][1]))
    kept: list[tuple[int, int]] = []
    for start, end in sorted(found, key=lambda span: span[0] - span[1]):
        if all(end <= other[0] or other[1] <= start for other in kept):
            kept.append((start, end))
    return sorted(kept)


def recall_at_k(relevant: Sequence[bool], k: int) -> float:
    """Return 1 where one of the best ``k`` passages is relevant, else 0.

    This is the recall of open-domain question answering (Karpukhin et al. 2020): one passage with
    the answer is enough. `gold_recall_at_k` counts every gold passage.
    """
    return float(any(relevant[:k]))


def gold_recall_at_k(passage_ids: Sequence[str], gold: Collection[str], k: int) -> float:
    """Return the share of the gold passages that is among the best ``k``.

    Raises:
        ValueError: there is no gold passage.
    """
    if not gold:
        raise ValueError("recall is undefined without gold passages")
    return len(set(passage_ids[:k]) & set(gold)) / len(set(gold))


def mrr(relevant: Sequence[bool]) -> float:
    """Return 1 / rank of the first relevant passage, from 1; 0 where the first 20 have none.

    Passages beyond `MRR_DEPTH` count for nothing, so that figures of deeper searches compare.
    """
    best = relevant[:MRR_DEPTH]
    return next((1 / rank for rank, hit in enumerate(best, start=1) if hit), 0.0)


def _best(score: Callable[[str, str], float], prediction: str, answers: Sequence[str]) -> float:
    if isinstance(answers, str):
        raise TypeError(f"answers must be a sequence of strings, not the string {answers!r}")
    return max((score(prediction, answer) for answer in answers), default=0.0)


def _equal(prediction: str, answer: str) -> float:
    return float(normalize_answer(prediction) == normalize_answer(answer))


def _token_f1(prediction: str, answer: str) -> float:
    predicted = normalize_answer(prediction).split()
    expected = normalize_answer(answer).split()
    if not predicted and not expected:
        return 1.0
    common = sum((Counter(predicted) & Counter(expected)).values())
    return 2 * common / (len(predicted) + len(expected))


def _longest_common(prediction: str, answer: str) -> float:
    return float(_rouge().score(answer, prediction)["rougeL"].fmeasure)


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    stretch = text[start:end]
    inner = stretch.strip(string.punctuation) or stretch
    begin = start + stretch.index(inner)
    return begin, begin + len(inner)


class _Words:
    """A tokenizer for ``rouge-score`` that keeps every script."""

    def tokenize(self, text: str) -> list[str]:
        return _WORD.findall(text.lower())


@cache
def _rouge() -> Any:
    from rouge_score import rouge_scorer

    return rouge_scorer.RougeScorer(["rougeL"], tokenizer=_Words())
