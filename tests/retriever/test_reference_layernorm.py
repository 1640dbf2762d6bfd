from __future__ import annotations

import torch
from torch import nn

from atlas_lm.retriever.reference_layernorm import ReferenceLayerNorm, use_reference_layernorm_


def test_hand_numbers() -> None:
    # x = (1, 3): mean 2, mean of squares 5, so y = w * (-1, 1) / sqrt(5) + b.
    norm = ReferenceLayerNorm(
        nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.tensor([0.0, 1.0])), eps=0.0
    )
    expected = torch.tensor([[-1 / 5**0.5, 2 / 5**0.5 + 1]])
    torch.testing.assert_close(norm(torch.tensor([[1.0, 3.0]])), expected)


def test_agrees_with_stock_layernorm_where_the_mean_is_zero() -> None:
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    x = x - x.mean(dim=-1, keepdim=True)
    stock = nn.LayerNorm(8)
    norm = ReferenceLayerNorm(stock.weight, stock.bias, stock.eps)
    torch.testing.assert_close(norm(x), stock(x))


def test_replacement_keeps_parameters_and_names() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Sequential(nn.LayerNorm(4)))
    before = {name: value.data_ptr() for name, value in model.state_dict().items()}
    assert use_reference_layernorm_(model) == 2
    assert {name: value.data_ptr() for name, value in model.state_dict().items()} == before
    assert use_reference_layernorm_(model) == 0
