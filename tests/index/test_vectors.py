from __future__ import annotations

import torch

from atlas_lm.index.vectors import Dense, encode_int8, encode_int8_chunked, scores_at


def test_codes_by_hand():
    # largest components 127 and 2.54: steps 1 and 0.02; 0.01 / 0.02 rounds to the even 0
    coded = encode_int8(torch.tensor([[127.0, -63.4, 0.0], [-2.54, 0.01, 0.05]]))
    assert coded.codes.tolist() == [[255, 65, 128], [1, 128, 130]] or coded.codes.tolist() == [
        [255, 65, 128],
        [1, 128, 131],
    ]  # 0.05 / 0.02 is 2.5, give or take a rounding
    torch.testing.assert_close(coded.scales, torch.tensor([1.0, 0.02]))
    decoded = coded.at(torch.tensor([0, 1]))
    torch.testing.assert_close(decoded[0], torch.tensor([127.0, -63.0, 0.0]))
    assert coded.chunk(0, 2, torch.empty(2, 3)).equal(decoded)


def test_every_component_is_off_by_at_most_half_a_step():
    torch.manual_seed(0)
    vectors = torch.randn(200, 33) * torch.logspace(-30, 30, 200)[:, None]
    coded = encode_int8(vectors)
    off = (coded.at(torch.arange(200)) - vectors).abs()
    assert (off <= 0.5001 * coded.scales[:, None]).all()


def test_zero_and_tiny_vectors_are_coded():
    coded = encode_int8(torch.tensor([[0.0, 0.0], [1e-45, -3e-44]]))
    assert coded.codes[0].tolist() == [128, 128]
    assert coded.at(torch.tensor([0])).tolist() == [[0.0, 0.0]]
    assert torch.isfinite(coded.at(torch.tensor([1]))).all()


def test_chunked_codes_are_those_of_the_whole():
    torch.manual_seed(1)
    vectors = torch.randn(100, 8).half()
    whole, chunked = encode_int8(vectors), encode_int8_chunked(vectors, rows=7)
    assert whole.codes.equal(chunked.codes)
    assert whole.scales.equal(chunked.scales)
    share = whole.share(range(10, 20))
    assert share.at(torch.tensor([3])).equal(whole.at(torch.tensor([13])))


def test_scores_of_chosen_rows():
    vectors = Dense(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]).half())
    query = torch.tensor([[1.0, 0.0], [0.5, 1.0]])
    found = scores_at(vectors, query, torch.tensor([[0, 2], [1, 1]]))
    assert found.tolist() == [[1.0, 5.0], [5.5, 5.5]]
