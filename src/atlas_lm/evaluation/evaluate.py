"""Examples, generated answers and retrieved passages to records and metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from atlas_lm.evaluation import metrics
from atlas_lm.evaluation.bootstrap import RESAMPLES, Comparison, compare, estimate
from atlas_lm.evaluation.measures import answer_metrics, kilt_scores, retrieval_metrics
from atlas_lm.evaluation.records import AnswerRecord, Metrics, RankedPassage
from atlas_lm.runtime.logs import progress_bar
from atlas_lm.types import Batch, Example, Generated, Retrieved

DEFAULT_KS = (1, 5, 20)
"""Depths at which recall is reported, as far as passages were retrieved."""

AnswerBatch = Callable[[Batch], tuple[Sequence[Generated] | None, Retrieved | None]]
"""What is evaluated: the answers to a batch (None: retrieval alone) and the passages retrieved for
it (None: closed book)."""


@dataclass(frozen=True)
class Evaluation:
    """Records of every example, in order, and their means."""

    records: tuple[AnswerRecord, ...]
    metrics: Metrics


def evaluate(
    examples: Sequence[Example],
    answer: AnswerBatch,
    *,
    batch_size: int,
    ks: Sequence[int] = DEFAULT_KS,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Evaluation:
    """Answer every example, batch by batch behind a progress bar, and measure the answers.

    Raises:
        ValueError: ``answer`` gave more or fewer answers or passages than it was asked for.
    """
    generated: list[Generated] = []
    retrieved: list[Retrieved] = []
    with progress_bar() as progress:
        bar = progress.add_task("evaluating", total=len(examples))
        for start in range(0, len(examples), batch_size):
            batch = Batch(tuple(examples[start : start + batch_size]))
            answers, passages = answer(batch)
            generated += answers or ()
            retrieved += [] if passages is None else [passages]
            progress.advance(bar, len(batch))
    return evaluate_answers(
        examples, generated or None, retrieved or None, ks=ks, seed=seed, resamples=resamples
    )


def evaluate_answers(
    examples: Sequence[Example],
    generated: Sequence[Generated] | None,
    retrieved: Retrieved | Sequence[Retrieved] | None = None,
    *,
    ks: Sequence[int] = DEFAULT_KS,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Evaluation:
    """Return what generated answers and retrieved passages are worth.

    Answer metrics are means over the examples with answers, ``gold_*`` ones over those with gold
    passage ids.

    Args:
        examples: what was asked.
        generated: one answer an example; None to measure retrieval alone.
        retrieved: the passages of all examples, or of successive batches of them; None in closed
            book.
        ks: depths of recall; those beyond what was retrieved give way to the depth retrieved.
        seed: seed of the intervals.
        resamples: resamples behind the intervals.

    Raises:
        ValueError: the three differ in length.
    """
    records = record_answers(examples, generated, retrieved, ks=ks)
    return Evaluation(records, summarise(records, seed=seed, resamples=resamples))


def record_answers(
    examples: Sequence[Example],
    generated: Sequence[Generated] | None,
    retrieved: Retrieved | Sequence[Retrieved] | None = None,
    *,
    ks: Sequence[int] = DEFAULT_KS,
) -> tuple[AnswerRecord, ...]:
    """Return the record of every example, without means; see `evaluate_answers`."""
    answers = [None] * len(examples) if generated is None else list(generated)
    if len(answers) != len(examples):
        raise ValueError(f"{len(examples)} examples but {len(answers)} generated answers")
    ranked = [()] * len(examples) if retrieved is None else rank_passages(examples, retrieved)
    deepest = max(map(len, ranked), default=0)
    depths = sorted({min(k, deepest) for k in ks if k > 0 and deepest > 0})
    return tuple(
        AnswerRecord(
            example,
            answer,
            passages,
            {**_metrics(example, answer, passages, depths), **leak},
        )
        for example, answer, passages, leak in zip(
            examples, answers, ranked, _leaks(examples, retrieved), strict=True
        )
    )


def rank_passages(
    examples: Sequence[Example], retrieved: Retrieved | Sequence[Retrieved]
) -> list[tuple[RankedPassage, ...]]:
    """Return every example's passages, best first, marked with what they are worth to it.

    Raises:
        ValueError: there are more or fewer queries than examples.
    """
    found = [
        pair
        for batch in ([retrieved] if isinstance(retrieved, Retrieved) else retrieved)
        for pair in zip(batch.passages, batch.scores.tolist(), strict=True)
    ]
    if len(found) != len(examples):
        raise ValueError(f"{len(examples)} examples but passages for {len(found)} queries")
    ranked = []
    for example, (passages, scores) in zip(examples, found, strict=True):
        matches = metrics.answer_matcher(example.answers)
        ranked.append(
            tuple(
                RankedPassage(
                    passage,
                    score,
                    has_answer=matches(f"{passage.heading}\n{passage.text}"),
                    is_gold=passage.id in example.gold_passage_ids,
                )
                for passage, score in zip(passages, scores, strict=True)
            )
        )
    return ranked


def summarise(
    records: Sequence[AnswerRecord], *, seed: int = 0, resamples: int = RESAMPLES
) -> Metrics:
    """Return the mean of every metric over the records that have it."""
    estimates = {}
    for name in _names(records):
        values = [record.metrics[name] for record in records if name in record.metrics]
        estimates[name] = estimate(values, seed=seed, resamples=resamples)
    return Metrics(estimates)


def compare_records(
    before: Sequence[AnswerRecord],
    after: Sequence[AnswerRecord],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> tuple[Comparison, ...]:
    """Return the paired comparison of every metric over the examples that have it on both sides.

    Raises:
        ValueError: the two are not records of the same examples in the same order.
    """
    if [record.example.id for record in before] != [record.example.id for record in after]:
        raise ValueError("before and after must be records of the same examples in the same order")
    comparisons = []
    for name in _names(before):
        pairs = [
            (first.metrics[name], second.metrics[name])
            for first, second in zip(before, after, strict=True)
            if name in first.metrics and name in second.metrics
        ]
        if pairs:
            values = ([pair[0] for pair in pairs], [pair[1] for pair in pairs])
            comparisons.append(compare(name, *values, seed=seed, resamples=resamples))
    return tuple(comparisons)


def _metrics(
    example: Example,
    answer: Generated | None,
    passages: Sequence[RankedPassage],
    depths: Sequence[int],
) -> dict[str, float]:
    answered = answer_metrics(example, answer)
    found = retrieval_metrics(example, passages, depths)
    return {**answered, **found, **kilt_scores(answered, found)}


def _leaks(
    examples: Sequence[Example], retrieved: Retrieved | Sequence[Retrieved] | None
) -> list[dict[str, float]]:
    """Return ``leaked`` of each guarded example: whether passages were replaced for it."""
    batches = [retrieved] if isinstance(retrieved, Retrieved) else retrieved or []
    flags = [
        flag for batch in batches for flag in batch.leaked or [None] * len(batch.passages)
    ] or [None] * len(examples)
    return [
        {} if flag is None or example.overlap is None else {"leaked": float(flag)}
        for example, flag in zip(examples, flags, strict=True)
    ]


def _names(records: Sequence[AnswerRecord]) -> list[str]:
    return list(dict.fromkeys(name for record in records for name in record.metrics))
