"""Each objective against numbers worked out by hand: two queries, three passages."""

import math

import pytest
import torch

from atlas_lm.objectives import OBJECTIVES, ObjectiveConfig, make_objective
from atlas_lm.types import ReaderSignals

LOG2 = math.log(2)
MASK = torch.tensor([[True, True], [True, False]])


def objective(name, **values):
    values = {"temperature_score": 1.0, "temperature_gold": 1.0, **values}
    return make_objective(ObjectiveConfig(objective=name, **values))


def per_passage(first, second):
    """Log-likelihoods of two tokens for three passages of two queries; the last token is padding
    in the second query and carries nonsense that must not count."""
    second = [[value, 99.0] for value in second]
    return torch.tensor([first, second])


def test_pdist_gold_is_the_mean_token_log_likelihood():
    signals = ReaderSignals(
        MASK, passage_log_likelihood=per_passage([[-1.0, -3.0], [-2.0, -2.0], [0, -1]], [-1, -2, 0])
    )
    gold = objective("pdist").gold_score(signals)
    assert gold.tolist() == [[-2.0, -2.0, -0.5], [-1.0, -2.0, 0.0]]


def test_loop_gold_is_what_the_reader_loses_without_the_passage():
    signals = ReaderSignals(
        MASK, leave_one_out=per_passage([[-1.0, -3.0], [-2.0, -2.0], [0, -1]], [-1, -2, 0])
    )
    gold = objective("loop").gold_score(signals)
    assert gold.tolist() == [[2.0, 2.0, 0.5], [1.0, 2.0, 0.0]]


def test_a_floor_bounds_what_one_token_can_say_against_a_passage():
    """Floor 2: (-1, -3) counts as (-1, -2), -9 as -2; what is above stays."""
    values = per_passage([[-1.0, -3.0], [-2.0, -2.0], [0, -1]], [-1, -9, 0])
    signals = ReaderSignals(MASK, passage_log_likelihood=values, leave_one_out=values)
    mean = [[-1.5, -2.0, -0.5], [-1.0, -2.0, 0.0]]
    floor = {"likelihood_floor": 2.0}
    assert objective("pdist", **floor).gold_score(signals).tolist() == mean
    assert objective("loop", **floor).gold_score(signals).tolist() == [
        [-value for value in row] for row in mean
    ]
    total = [[-3.0, -4.0, -1.0], [-1.0, -2.0, 0.0]]
    assert objective("emdr2", **floor).gold_score(signals).tolist() == total


def test_adist_gold_is_the_mass_and_the_reference_scale_divides_by_256_tokens():
    signals = ReaderSignals(MASK, attention_mass=torch.tensor([[512.0, 0, 256], [512, 256, 0]]))
    assert objective("adist").gold_score(signals).tolist() == [[512, 0, 256], [512, 256, 0]]
    reference = objective("adist", adist_normaliser="reference").gold_score(signals)
    assert reference.tolist() == [[1, 0, 0.5], [2, 1, 0]]  # two target tokens, and one


def test_kl_is_summed_over_passages():
    # gold softmax of (log 2, 0, 0) is (1/2, 1/4, 1/4); a flat retriever has 1/3 each.
    # KL = 1/2 log(3/2) + 1/2 log(3/4) = log 3 - 3/2 log 2
    signals = ReaderSignals(
        MASK,
        passage_log_likelihood=per_passage([[LOG2, LOG2], [0, 0], [0, 0]], [0, 0, 0]),
    )
    flat = torch.full((2, 3), 5.0)
    loss = objective("pdist").loss(flat, signals)
    assert loss.tolist() == pytest.approx([math.log(3) - 1.5 * LOG2, 0.0], abs=1e-6)
    mean = objective("pdist", kl_reduction="mean").loss(flat, signals)
    torch.testing.assert_close(mean, loss / 3)


def test_both_temperatures_divide_their_own_score():
    # gold (log 2, 0, 0) / 0.5 = (log 4, 0, 0): (4, 1, 1)/6.
    # retriever (log 3, 0, 0) / 2 = (log √3, 0, 0)
    signals = ReaderSignals(MASK, attention_mass=torch.tensor([[LOG2, 0, 0]] * 2))
    score = torch.tensor([[math.log(3), 0, 0]] * 2)
    tempered = objective("adist", temperature_gold=0.5, temperature_score=2.0)
    z = math.sqrt(3) + 2
    expected = 4 / 6 * math.log(4 / 6 / (math.sqrt(3) / z)) + 2 / 6 * math.log(1 / 6 / (1 / z))
    assert tempered.loss(score, signals).tolist() == pytest.approx([expected] * 2, rel=1e-6)
    gold = tempered.log_gold(signals)[0].exp().tolist()
    assert gold == pytest.approx([4 / 6, 1 / 6, 1 / 6])


def test_emdr2_marginalises_the_whole_target():
    # p(a | d) = (1/4, 1/2, 1); p_retr = (1/2, 1/4, 1/4): Σ = 1/8 + 1/8 + 1/4 = 1/2
    signals = ReaderSignals(
        MASK,
        passage_log_likelihood=per_passage(
            [[-LOG2, -LOG2], [-LOG2, 0], [0, 0]], [-2 * LOG2, -LOG2, 0]
        ),
    )
    score = torch.tensor([[LOG2, 0, 0]] * 2)
    emdr2 = objective("emdr2")
    assert emdr2.loss(score, signals).tolist() == pytest.approx([LOG2, LOG2], rel=1e-6)
    assert emdr2.gold_score(signals)[0].tolist() == pytest.approx([-2 * LOG2, -LOG2, 0])
    assert emdr2.logit_temperature == 1.0


def test_emdr2_at_token_level_marginalises_each_token():
    # first query, token 1: 1/2·1/2 + 1/4·1/2 + 1/4 = 5/8; token 2: 1/2·1/2 + 1/4 + 1/4 = 3/4
    # second query, its only token: 1/2·1/4 + 1/4·1/2 + 1/4 = 1/2
    signals = ReaderSignals(
        MASK,
        passage_log_likelihood=per_passage(
            [[-LOG2, -LOG2], [-LOG2, 0], [0, 0]], [-2 * LOG2, -LOG2, 0]
        ),
    )
    score = torch.tensor([[LOG2, 0, 0]] * 2)
    emdr2 = objective("emdr2", emdr2_marginal="token", temperature_gold=0.1)
    total = -math.log(5 / 8) - math.log(3 / 4) - math.log(1 / 2)
    assert emdr2.loss(score, signals).mean().item() == pytest.approx(total / 3, rel=1e-6)
    assert emdr2.logit_temperature == 0.1


def test_diagnostics_are_sums_over_queries():
    signals = ReaderSignals(MASK, attention_mass=torch.tensor([[LOG2, 0, 0]] * 2))
    found = objective("adist").diagnostics(torch.zeros(2, 3), signals)
    assert found["kl"] == pytest.approx(2 * (math.log(3) - 1.5 * LOG2), rel=1e-5)
    assert found["entropy_gold"] == pytest.approx(2 * 1.5 * LOG2, rel=1e-6)
    assert found["entropy_retriever"] == pytest.approx(2 * math.log(3), rel=1e-6)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_slice_of_a_batch_is_a_batch_of_slices(name):
    generator = torch.Generator().manual_seed(0)
    likelihood = -torch.rand(4, 3, 5, generator=generator)
    mask = torch.arange(5) < torch.tensor([[5], [2], [1], [3]])
    mass, score = torch.rand(2, 4, 3, generator=generator).unbind()

    def signals(part):
        return ReaderSignals(mask[part], likelihood[part], likelihood[part], mass[part])

    whole = objective(name).loss(score, signals(slice(None)))
    parts = [objective(name).loss(score[i : i + 1], signals(slice(i, i + 1))) for i in range(4)]
    torch.testing.assert_close(whole, torch.cat(parts))
