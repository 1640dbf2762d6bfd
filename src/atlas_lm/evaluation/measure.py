"""A model, questions in, measured answers and passages out."""

from __future__ import annotations

from collections.abc import Sequence

from atlas_lm.evaluation.evaluate import evaluate_answers
from atlas_lm.evaluation.records import DEFAULT_KS, Evaluation
from atlas_lm.model import Atlas
from atlas_lm.runtime.logs import track
from atlas_lm.types import Batch, Example, Generated, Retrieved


def measure(
    atlas: Atlas,
    examples: Sequence[Example],
    *,
    ks: Sequence[int] = DEFAULT_KS,
    answers: bool = True,
    bsz: int = 8,
    description: str = "evaluating",
) -> Evaluation:
    """Return what the model finds and writes for every example, and the means.

    Args:
        atlas: The model, its index open where it retrieves.
        examples: Questions with answers or gold passages.
        ks: Depths of recall; the deepest is how many passages are retrieved.
        answers: Whether answers are written too; retrieval alone is much cheaper.
        bsz: Questions at a time.
        description: What the progress bar says.

    Raises:
        InputError: as `Atlas.retrieve` does.
    """
    n_context = atlas.config.context.n_context
    depth = max(n_context, *ks)
    if atlas.config.context.passages_from != "index":
        depth = n_context
    elif atlas.index is not None:
        depth = min(depth, max(n_context, len(atlas.index)))
    generated: list[Generated] = []
    retrieved: list[Retrieved] = []
    for start in track(range(0, len(examples), bsz), description):
        batch = Batch(tuple(examples[start : start + bsz]))
        retrieved.append(atlas.retrieve(batch, depth))
        if answers:
            generated += atlas.generate(batch, retrieved[-1])
    closed_book = atlas.config.context.passages_from == "none"
    return evaluate_answers(
        examples, generated if answers else None, None if closed_book else retrieved, ks=ks
    )
