import math

import pytest
import torch

from atlas_lm.objectives.divergence import (
    distillation_loss,
    entropy,
    kl_divergence,
    log_distribution,
)


def test_a_passage_with_no_gold_probability_contributes_nothing():
    gold = torch.tensor([[0.5, 0.5, 0.0]]).log()
    log_prob = torch.tensor([[0.25, 0.25, 0.5]]).log().requires_grad_()
    loss = kl_divergence(gold, log_prob)
    assert loss.item() == pytest.approx(math.log(2))
    loss.sum().backward()
    assert log_prob.grad.tolist() == [[-0.5, -0.5, 0.0]]


def test_zero_against_zero_is_zero():
    gold = torch.tensor([[1.0, 0.0]]).log()
    assert kl_divergence(gold, gold).item() == 0.0
    assert entropy(gold).item() == 0.0


def test_scores_hundreds_apart_stay_finite():
    score = torch.tensor([[0.0, -9.0, 5.0]], requires_grad=True)
    gold = torch.tensor([[-400.0, 3.0, 0.0]])
    loss = distillation_loss(score, gold, temperature_score=0.01, temperature_gold=0.01)
    loss.sum().backward()
    assert loss.item() == pytest.approx(1400.0)
    assert torch.isfinite(score.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_scores_are_cast_first(dtype):
    score = torch.tensor([[1.0, 2.0, 3.0]], dtype=dtype)
    assert log_distribution(score, 0.01).dtype == torch.float32


def test_float32_agrees_with_float64():
    generator = torch.Generator().manual_seed(1)
    score, gold = torch.randn(2, 8, 40, generator=generator, dtype=torch.float64).unbind()
    for temperature in (1.0, 0.1, 0.01):
        options = {"temperature_score": temperature, "temperature_gold": temperature}
        exact = distillation_loss(score, gold, **options)
        single = distillation_loss(score.float(), gold.float(), **options)
        torch.testing.assert_close(single.double(), exact, rtol=1e-5, atol=1e-6)


def test_the_divergence_is_that_of_torch():
    gold, log_prob = torch.randn(2, 6, 5).log_softmax(-1).unbind()
    expected = torch.nn.functional.kl_div(log_prob, gold, reduction="none", log_target=True)
    torch.testing.assert_close(kl_divergence(gold, log_prob), expected.sum(-1))


def test_the_gradient_of_the_score_is_the_difference_of_the_distributions():
    score = torch.randn(3, 4, requires_grad=True)
    gold = torch.randn(3, 4, requires_grad=True)
    distillation_loss(score, gold, temperature_score=0.5, temperature_gold=1.0).sum().backward()
    difference = log_distribution(score.detach(), 0.5).exp() - gold.detach().softmax(-1)
    torch.testing.assert_close(score.grad, difference / 0.5)
    assert gold.grad is None


def test_entropy_of_a_flat_distribution_is_log_n():
    assert entropy(log_distribution(torch.zeros(1, 8), 1.0)).item() == pytest.approx(math.log(8))
