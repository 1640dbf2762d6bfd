import math

import pytest
import torch
from torch import nn

from atlas_lm.runtime.errors import InputError
from atlas_lm.training import HalfOptimizer, OptimConfig
from atlas_lm.training.lr_schedule import lr_multiplier


def multipliers(schedule, warmup, total, floor=0.1, until=None):
    return [
        lr_multiplier(schedule, step, warmup_steps=warmup, total_steps=total, floor=floor)
        for step in range(until or total + 1)
    ]


def test_schedules_by_hand():
    assert multipliers("constant", 2, 4) == [0, 0.5, 1, 1, 1]
    assert multipliers("linear", 2, 4) == pytest.approx([0.1, 0.55, 1, 0.55, 0.1])
    quarter = 0.1 + 0.9 * math.cos(math.pi / 4)
    assert multipliers("cosine", 2, 4) == pytest.approx([0, 0.5, 1, quarter, 0.1])


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize(("warmup", "total"), [(0, 1), (0, 10), (10, 10), (5, 10), (0, 0), (1, 1)])
def test_never_negative_never_undefined(schedule, warmup, total):
    values = multipliers(schedule, warmup, total, until=60)
    assert all(0 <= value <= 1 for value in values)


def test_norms_and_biases_do_not_decay():
    module = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    half = HalfOptimizer(module, OptimConfig(lr=0.1, weight_decay=0.5), total_steps=10)
    decayed = {
        id(p) for group in half.adamw.param_groups if group["weight_decay"] for p in group["params"]
    }
    assert decayed == {id(module[0].weight)}


def test_frozen_parameters_are_left_out():
    module = nn.Linear(2, 3)
    module.bias.requires_grad_(False)
    assert list(HalfOptimizer(module, OptimConfig(), total_steps=1).parameters) == ["weight"]
    module.weight.requires_grad_(False)
    with pytest.raises(InputError, match="nothing to train"):
        HalfOptimizer(module, OptimConfig(), total_steps=1)


def test_the_update_is_that_of_adamw():
    torch.manual_seed(0)
    ours, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    theirs.load_state_dict(ours.state_dict())
    config = OptimConfig(lr=0.1, schedule="constant", weight_decay=0.2, beta1=0.8, eps=1e-5)
    half = HalfOptimizer(ours, config, total_steps=5)
    reference = torch.optim.AdamW(
        [
            {"params": [theirs.weight], "weight_decay": 0.2},
            {"params": [theirs.bias], "weight_decay": 0},
        ],
        lr=0.1,
        betas=(0.8, 0.999),
        eps=1e-5,
    )
    for step in range(3):
        for module in (ours, theirs):
            module.zero_grad()
            module(torch.ones(1, 3)).square().sum().backward()
        half.update(step)
        reference.step()
    assert torch.equal(ours.weight, theirs.weight)
    assert torch.equal(ours.bias, theirs.bias)


def test_moments_of_another_model_are_refused():
    half = HalfOptimizer(nn.Linear(2, 2), OptimConfig(), total_steps=1)
    with pytest.raises(InputError, match="optimizer state of 'head'"):
        half.restore({f"head/{key}": torch.zeros(1) for key in ("step", "exp_avg", "exp_avg_sq")})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"lr": -1.0}, "lr=-1.0"),
        ({"lr": math.nan}, "lr=nan"),
        ({"schedule": "step"}, "constant, linear or cosine"),
        ({"lr_floor": 1.5}, "lr_floor=1.5"),
        ({"beta2": 1.0}, "beta2=1.0"),
        ({"eps": 0.0}, "eps=0.0"),
        ({"warmup_steps": -1}, "warmup_steps=-1"),
    ],
)
def test_nonsense_is_refused(values, words):
    with pytest.raises(InputError, match=words):
        OptimConfig(**values)


def test_parts_have_learning_rates_of_their_own():
    """AdamW's first step moves every component by its learning rate."""
    module = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    config = OptimConfig(lr=0.01, lr_of={"1.": 0.1}, weight_decay=0.0, schedule="constant")
    half = HalfOptimizer(module, config, total_steps=4)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    half.update(0)
    moved = {
        name: (before[name] - p.detach()).abs().mean() for name, p in module.named_parameters()
    }
    expected = {"0.weight": 0.01, "0.bias": 0.01, "1.weight": 0.1, "1.bias": 0.1}
    assert {name: round(float(by), 4) for name, by in moved.items()} == expected


def test_a_part_that_does_not_exist_is_refused():
    config = OptimConfig(lr_of={"LayerNorm": 0.1})
    with pytest.raises(InputError, match=r"lr_of\.LayerNorm.*like weight, bias"):
        HalfOptimizer(nn.Linear(2, 2), config, total_steps=4)
