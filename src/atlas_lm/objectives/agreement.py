"""Do the objectives agree? Rank correlations for the loss lab."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def agreement(
    gold_score: Mapping[str, Float[Tensor, "bsz n_context"]],
    answer_bearing: Bool[Tensor, "bsz n_context"] | None = None,
) -> dict[str, dict[str, float | None]]:
    """Return mean Spearman correlations between scores, and of each with answer-bearing passages.

    Any score per passage may be among ``gold_score``, the retriever's too. Correlations are within
    a query and then averaged over the queries where both sides vary; None where none does.

    Returns:
        ``{"between": {"pdist~loop": rho, ...}, "answer_bearing": {"pdist": rho, ...}}``; the second
        is empty when ``answer_bearing`` is None.
    """
    between = {
        f"{first}~{second}": _mean_defined(spearman(gold_score[first], gold_score[second]))
        for first, second in combinations(gold_score, 2)
    }
    with_answers: dict[str, float | None] = {}
    if answer_bearing is not None:
        with_answers = {
            name: _mean_defined(spearman(score, answer_bearing.to(score.dtype)))
            for name, score in gold_score.items()
        }
    return {"between": between, "answer_bearing": with_answers}


def spearman(
    first: Float[Tensor, "bsz n_context"], second: Float[Tensor, "bsz n_context"]
) -> Float[Tensor, " bsz"]:
    """Return Spearman's rank correlation of each query; nan where one side is constant.

    Ties share their mean rank.
    """
    ranks = [mean_ranks(score) for score in (first, second)]
    centred = [rank - rank.mean(dim=-1, keepdim=True) for rank in ranks]
    covariance = (centred[0] * centred[1]).sum(dim=-1)
    correlation: Tensor = covariance / (centred[0].norm(dim=-1) * centred[1].norm(dim=-1))
    return correlation


def mean_ranks(score: Float[Tensor, "bsz n_context"]) -> Float[Tensor, "bsz n_context"]:
    """Return each score's rank within its query, from 0; equal scores share their mean rank."""
    smaller = (score.unsqueeze(-1) > score.unsqueeze(-2)).sum(dim=-1)
    equal = (score.unsqueeze(-1) == score.unsqueeze(-2)).sum(dim=-1)
    return smaller.double() + (equal.double() - 1) / 2


def _mean_defined(correlation: Float[Tensor, " bsz"]) -> float | None:
    mean = torch.nanmean(correlation).item()
    return None if math.isnan(mean) else mean
