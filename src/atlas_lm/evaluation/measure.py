"""A model and questions in, measured answers and passages out."""

from __future__ import annotations

from collections.abc import Sequence

from atlas_lm.evaluation.choices import choose
from atlas_lm.evaluation.evaluate import DEFAULT_KS, Evaluation, evaluate
from atlas_lm.evaluation.gold import check_gold
from atlas_lm.evaluation.metrics import MRR_DEPTH
from atlas_lm.evaluation.records import AnswerRecord
from atlas_lm.model import Atlas
from atlas_lm.runtime.logs import warn
from atlas_lm.types import Batch, Example, Generated, Retrieved


def measure(
    atlas: Atlas,
    examples: Sequence[Example],
    *,
    ks: Sequence[int] = DEFAULT_KS,
    answers: bool = True,
    bsz: int = 8,
) -> Evaluation:
    """Return what the model finds and writes for every example, and the means.

    Args:
        atlas: The model, its index open where it retrieves.
        examples: Questions with answers or gold passages.
        ks: Depths of recall. As far as the index goes, as many passages are retrieved as the
            deepest of them and the reciprocal rank (`MRR_DEPTH`) look at.
        answers: Whether answers are written too; retrieval alone is much cheaper.
        bsz: Questions at a time.

    Raises:
        InputError: as `Atlas.retrieve` and `check_gold` do.
    """
    check_gold(atlas, examples)
    return measure_part(atlas, examples, ks=ks, answers=answers, bsz=bsz)


def measure_part(
    atlas: Atlas,
    examples: Sequence[Example],
    *,
    ks: Sequence[int],
    answers: bool = True,
    bsz: int = 8,
) -> Evaluation:
    """Return the same as `measure` of a part of some examples, all of which `check_gold` has seen.

    A part alone may well have none of its gold passages in a corpus that has others'.
    """
    depth = _depth(atlas, ks)

    def answer(batch: Batch) -> tuple[list[Generated] | None, Retrieved | None]:
        retrieved = atlas.retrieve(batch, depth)
        written = answer_batch(atlas, batch, retrieved) if answers else None
        return written, None if atlas.config.context.passages_from == "none" else retrieved

    return evaluate(examples, answer, batch_size=bsz, ks=ks)


def warn_of_cut_answers(records: Sequence[AnswerRecord], most: int) -> None:
    """Say how many of the answers end because they have ``most`` tokens, if any do."""
    cut = sum(record.generated is not None and record.generated.cut for record in records)
    if cut:
        warn(
            f"{cut} of {len(records)} answers were cut off at generation.max_new_tokens={most}; "
            "where answers are long, raise it (--set generation.max_new_tokens=N)"
        )


def answer_batch(atlas: Atlas, batch: Batch, retrieved: Retrieved) -> list[Generated]:
    """Return an answer for each example: chosen where there are choices, written where not."""
    answers: dict[int, Generated] = {}
    for has_choices in (True, False):
        places = [n for n, each in enumerate(batch.examples) if bool(each.choices) == has_choices]
        if not places:
            continue
        some = Batch(tuple(batch.examples[n] for n in places))
        found = Retrieved(
            tuple(retrieved.passages[n] for n in places),
            retrieved.scores[places],
            retrieved.rows[places],
        )
        given = choose(atlas, some, found) if has_choices else atlas.generate(some, found)
        answers |= dict(zip(places, given, strict=True))
    return [answers[n] for n in range(len(batch))]


def _depth(atlas: Atlas, ks: Sequence[int]) -> int:
    n_context = atlas.config.context.n_context
    if atlas.config.context.passages_from != "index" or atlas.index is None:
        return n_context
    return max(n_context, min(max(MRR_DEPTH, *ks), atlas.n_findable))
