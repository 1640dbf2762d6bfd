"""A model and questions in, measured answers and passages out."""

from __future__ import annotations

from collections.abc import Sequence

from atlas_lm.evaluation.evaluate import DEFAULT_KS, Evaluation, evaluate
from atlas_lm.model import Atlas
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
        ks: Depths of recall; the deepest, as far as the index goes, is what is retrieved.
        answers: Whether answers are written too; retrieval alone is much cheaper.
        bsz: Questions at a time.

    Raises:
        InputError: as `Atlas.retrieve` does.
    """
    depth = _depth(atlas, ks)

    def answer(batch: Batch) -> tuple[list[Generated] | None, Retrieved | None]:
        retrieved = atlas.retrieve(batch, depth)
        written = atlas.generate(batch, retrieved) if answers else None
        return written, None if atlas.config.context.passages_from == "none" else retrieved

    return evaluate(examples, answer, batch_size=bsz, ks=ks)


def _depth(atlas: Atlas, ks: Sequence[int]) -> int:
    n_context = atlas.config.context.n_context
    if atlas.config.context.passages_from != "index" or atlas.index is None:
        return n_context
    return max(n_context, min(max(ks), atlas.n_findable))
