import dataclasses

import pytest
import torch

from atlas_lm.objectives import (
    EMDR2,
    OBJECTIVE_NAMES,
    OBJECTIVES,
    ADist,
    Loop,
    ObjectiveConfig,
    PDist,
    make_objective,
)
from atlas_lm.runtime.errors import InputError
from atlas_lm.types import ReaderSignals


def test_the_options_are_these():
    assert dataclasses.asdict(ObjectiveConfig()) == {
        "objective": "pdist",
        "temperature_score": 0.01,
        "temperature_gold": 0.01,
        "likelihood_floor": None,
        "kl_reduction": "sum",
        "emdr2_marginal": "sequence",
        "adist_normaliser": "none",
        "pool_candidates": False,
        "shuffle_signals": False,
    }
    assert tuple(OBJECTIVES) == OBJECTIVE_NAMES == ("pdist", "loop", "adist", "emdr2")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("pdist", PDist),
        ("loop", Loop),
        ("adist", ADist),
        ("emdr2", EMDR2),
        ("ppmean", PDist),
        ("lsr", PDist),
        ("evalnormsum", ADist),
        ("evalnormssum", ADist),
        ("emdr", EMDR2),
    ],
)
def test_names_and_aliases(name, kind):
    assert type(make_objective(ObjectiveConfig(objective=name))) is kind


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"objective": "pdits"}, ["objective.objective='pdits'", "did you mean 'pdist'"]),
        ({"temperature_gold": 0.0}, ["objective.temperature_gold=0.0", "positive"]),
        ({"temperature_score": float("nan")}, ["objective.temperature_score=nan"]),
        ({"kl_reduction": "batchmean"}, ["kl_reduction='batchmean'", "sum, mean"]),
        ({"emdr2_marginal": "word"}, ["emdr2_marginal='word'", "sequence, token"]),
        ({"likelihood_floor": 0.0}, ["likelihood_floor=0.0", "positive"]),
        ({"pool_candidates": True, "likelihood_floor": 4.0}, ["pool_candidates", "floor"]),
        ({"adist_normaliser": "256"}, ["adist_normaliser='256'", "none, reference"]),
    ],
)
def test_nonsense_is_refused_with_its_value(values, words):
    with pytest.raises(InputError) as error:
        ObjectiveConfig(**values)
    assert all(word in str(error.value) for word in words)


def test_a_signal_that_was_not_asked_for_is_named():
    with pytest.raises(AssertionError, match="leave_one_out"):
        Loop(ObjectiveConfig()).gold_score(ReaderSignals(torch.ones(1, 2, dtype=torch.bool)))
