"""Which metrics an example has: those that its task names, each by its function."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from atlas_lm.evaluation import kilt, metrics
from atlas_lm.evaluation.choices import Choice
from atlas_lm.evaluation.records import RankedPassage
from atlas_lm.runtime.errors import InputError, did_you_mean
from atlas_lm.types import Example, Generated

MEASURES: dict[str, Callable[[str, Sequence[str]], float]] = {
    "exact_match": metrics.exact_match,
    "f1": metrics.f1,
    "rouge_l": metrics.rouge_l,
    "accuracy": metrics.accuracy,
}
"""Answer and accepted answers to a number; a package may add its own under a new name."""

_OF_CHOICES = ("accuracy", "debiased_accuracy")
_KILT = "kilt_"

RECALL = "recall"
"""Among `Example.measures`: passages that contain an answer count as found."""

PAGES = 5
"""Depth of KILT's recall, in pages."""


def answer_metrics(example: Example, generated: Generated | None) -> dict[str, float]:
    """Return the metrics of an answer; none where there is no answer or none was accepted.

    Raises:
        InputError: the task names a measure that there is not.
    """
    if generated is None or not example.answers:
        return {}
    if isinstance(generated, Choice):
        return _choice_metrics(example, generated)
    names = [name for name in example.measures if name != RECALL]
    for name in names:
        if name not in MEASURES:
            raise InputError(
                f"example {example.id!r}: unknown measure {name!r}{did_you_mean(name, MEASURES)}; "
                f"known: {', '.join(MEASURES)}, {RECALL}"
            )
    return {name: MEASURES[name](generated.text, example.answers) for name in names}


def retrieval_metrics(
    example: Example, passages: Sequence[RankedPassage], depths: Sequence[int]
) -> dict[str, float]:
    """Return what an example's ranked passages are worth, as far as it says what is sought."""
    values: dict[str, float] = {}
    if not depths:
        return values
    if example.answers and RECALL in example.measures:
        hits = [passage.has_answer for passage in passages]
        values |= {f"recall_at_{k}": metrics.recall_at_k(hits, k) for k in depths}
        values["mrr"] = metrics.mrr(hits)
    if example.gold_passage_ids:
        ids = [passage.passage.id for passage in passages]
        gold = example.gold_passage_ids
        values |= {f"gold_recall_at_{k}": metrics.gold_recall_at_k(ids, gold, k) for k in depths}
        values["gold_mrr"] = metrics.mrr([passage.is_gold for passage in passages])
    if example.provenance:
        pages = kilt.ranked_pages([passage.passage for passage in passages])
        values["r_precision"] = kilt.r_precision(pages, example.provenance)
        recall = kilt.page_recall_at_k(pages, example.provenance, PAGES)
        values[f"page_recall_at_{PAGES}"] = recall
    return values


def is_of_answers(name: str) -> bool:
    """Return whether a metric is of answers, and not of retrieval."""
    known = {*MEASURES, *_OF_CHOICES}
    return name in known or name.removeprefix(_KILT) in known


def kilt_scores(answered: dict[str, float], found: dict[str, float]) -> dict[str, float]:
    """Return every answer metric where all evidence comes first, else 0: ``kilt_<metric>``.

    Only for examples with provenance and an answer (Petroni et al. 2021, section 5).
    """
    if "r_precision" not in found:
        return {}
    return {
        f"{_KILT}{name}": value if found["r_precision"] == 1 else 0.0
        for name, value in answered.items()
    }


def _choice_metrics(example: Example, choice: Choice) -> dict[str, float]:
    values = {"accuracy": float(choice.as_given in example.answers)}
    if choice.n_orders > 1:
        values["debiased_accuracy"] = float(choice.text in example.answers)
    return values
