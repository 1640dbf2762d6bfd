from __future__ import annotations

import pytest
import torch

from atlas_lm.retriever.pooling import POOLINGS

# Two rows of three token vectors; the second row's last token is a pad that must not count.
HIDDEN = torch.tensor([[[1.0, 2], [3, 4], [5, 9]], [[2.0, 0], [4, 6], [100, 100]]])
MASK = torch.tensor([[True, True, True], [True, True, False]])


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ("mean", [[3.0, 5.0], [3.0, 3.0]]),
        ("cls", [[1.0, 2.0], [2.0, 0.0]]),
        ("last", [[5.0, 9.0], [4.0, 6.0]]),
        ("sqrt", [[9 / 3**0.5, 15 / 3**0.5], [6 / 2**0.5, 6 / 2**0.5]]),
    ],
)
def test_hand_numbers(pooling: str, expected: list[list[float]]) -> None:
    torch.testing.assert_close(POOLINGS[pooling](HIDDEN, MASK), torch.tensor(expected))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_what_a_pad_holds_has_no_influence(pooling: str) -> None:
    other = HIDDEN.clone()
    other[1, 2] = float("nan")
    assert torch.equal(POOLINGS[pooling](other, MASK), POOLINGS[pooling](HIDDEN, MASK))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_half_precision_is_summed_in_float32(pooling: str) -> None:
    assert POOLINGS[pooling](HIDDEN.bfloat16(), MASK).dtype == torch.float32
