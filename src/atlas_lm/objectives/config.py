"""Which objective trains the retriever, and how sharp its two softmaxes are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from atlas_lm.runtime.errors import InputError, did_you_mean

OBJECTIVE_NAMES = ("pdist", "loop", "adist", "emdr2")
"""The objectives, in the order in which the loss lab shows them."""

ALIASES = {
    "ppmean": "pdist",
    "lsr": "pdist",
    "evalnormsum": "adist",
    "evalnormssum": "adist",
    "emdr": "emdr2",
}
"""Names in other codebases and papers, accepted in recipes."""


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """How the reader's signal becomes a loss for the retriever."""

    objective: str = "pdist"
    """pdist, loop, adist or emdr2; ppmean, lsr, evalnormsum and emdr are accepted as aliases."""
    temperature_score: float = 0.01
    """Divides the retriever's scores before their softmax."""
    temperature_gold: float = 0.01
    """Divides the gold scores before their softmax; without effect on sequence-level emdr2."""
    likelihood_floor: float | None = None
    """Nats: no target token's log-likelihood counts for less than minus this. A token that a
    passage makes unlikely says "not here", and how unlikely is mostly noise. Left out: no floor.
    Without effect on adist."""
    kl_reduction: Literal["sum", "mean"] = "sum"
    """KL over passages: the sum, or the original code's mean, 1/K of it. Not for emdr2."""
    emdr2_marginal: Literal["sequence", "token", "mean"] = "sequence"
    """Marginalise the whole target, each token on its own as the original code does, or the target
    with its log-likelihood per token divided by temperature_gold: long targets weigh no more."""
    adist_normaliser: Literal["none", "reference"] = "none"
    """Use the attention mass as it is, or on the scale of the original code."""
    pool_candidates: bool = False
    """Score every query against the passages of all queries of its micro-batch, on all processes;
    those that are not its own count as useless, and get no gradient from it. Passages that it may
    not be shown, such as the one that its text was cut from, are left out."""
    shuffle_signals: bool = False
    """A control: deal the reader's signals out at random among each query's passages. What the
    retriever still gains is not due to them."""

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVE_NAMES and self.objective not in ALIASES:
            raise InputError(
                f"objective.objective={self.objective!r} is unknown"
                f"{did_you_mean(self.objective, [*OBJECTIVE_NAMES, *ALIASES])}; "
                f"choose one of {', '.join(OBJECTIVE_NAMES)}"
            )
        for field in ("temperature_score", "temperature_gold"):
            value = getattr(self, field)
            if not (value > 0 and math.isfinite(value)):
                raise InputError(f"objective.{field}={value}: give a positive number, such as 0.1")
        if self.likelihood_floor is not None and not self.likelihood_floor > 0:
            raise InputError(
                f"objective.likelihood_floor={self.likelihood_floor}: give a positive number of "
                "nats, such as 4, or leave it out"
            )
        if self.pool_candidates and (
            self.likelihood_floor is not None
            or self.kl_reduction != "sum"
            or self.emdr2_marginal == "token"
        ):
            raise InputError(
                "objective.pool_candidates=true cannot be combined with likelihood_floor, "
                'kl_reduction="mean" or emdr2_marginal="token"; leave one of them out'
            )
        _check_choice("kl_reduction", self.kl_reduction, ("sum", "mean"))
        _check_choice("emdr2_marginal", self.emdr2_marginal, ("sequence", "token", "mean"))
        _check_choice("adist_normaliser", self.adist_normaliser, ("none", "reference"))

    @property
    def name(self) -> str:
        """The objective's own name, aliases resolved."""
        return ALIASES.get(self.objective, self.objective)


def _check_choice(field: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"objective.{field}={value!r}: choose one of {', '.join(choices)}")
