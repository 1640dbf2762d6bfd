from __future__ import annotations

import torch

from atlas_lm.types import Tokens


def test_pads_are_on_the_right():
    tokens = Tokens.padded([[7, 8, 9], [5]], 2)
    assert tokens.ids.tolist() == [[7, 8, 9], [5, 2, 2]]
    assert tokens.mask.tolist() == [[True, True, True], [True, False, False]]


def test_a_token_may_have_the_id_of_the_pads():
    assert Tokens.padded([[0, 3, 0], [1]]).mask.tolist() == [[True] * 3, [True, False, False]]


def test_no_rows_and_empty_rows_are_blocks_too():
    for rows, shape in (([], (0, 0)), ([[], []], (2, 0)), ([[], [4]], (2, 1))):
        tokens = Tokens.padded(rows)
        assert tokens.ids.shape == tokens.mask.shape == shape
        assert (tokens.ids.dtype, tokens.mask.dtype) == (torch.int64, torch.bool)
