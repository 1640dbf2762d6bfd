"""READER SIGNAL -> RETRIEVER LOSS: one equation a file.

`PDist`, `Loop` and `ADist` minimise KL(gold || p_retr); `EMDR2` maximises the marginal likelihood.
"""

from __future__ import annotations

from collections.abc import Callable

from atlas_lm.objectives.adist import ADist
from atlas_lm.objectives.agreement import agreement
from atlas_lm.objectives.config import ALIASES, OBJECTIVE_NAMES, ObjectiveConfig
from atlas_lm.objectives.divergence import Objective
from atlas_lm.objectives.emdr2 import EMDR2
from atlas_lm.objectives.loop import Loop
from atlas_lm.objectives.pdist import PDist

OBJECTIVES: dict[str, Callable[[ObjectiveConfig], Objective]] = {
    "pdist": PDist,
    "loop": Loop,
    "adist": ADist,
    "emdr2": EMDR2,
}
"""The four objectives by name, in the order in which the loss lab shows them."""


def make_objective(config: ObjectiveConfig) -> Objective:
    """Return the objective that the configuration names."""
    return OBJECTIVES[config.name](config)


__all__ = [
    "ALIASES",
    "EMDR2",
    "OBJECTIVES",
    "OBJECTIVE_NAMES",
    "ADist",
    "Loop",
    "Objective",
    "ObjectiveConfig",
    "PDist",
    "agreement",
    "make_objective",
]
