"""Query-side fine-tuning: the passage encoder is frozen, so the index never grows stale."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from atlas_lm.retriever import BiEncoder


def train_query_side_only(retriever: BiEncoder) -> BiEncoder:
    """Give passages an encoder of their own that does not learn; return the retriever.

    A tied retriever is untied by a real copy first: the passage encoder's weights, and with them
    every vector of the index, stay as they are bit for bit.
    """
    return retriever.untie().freeze_passage_encoder()
