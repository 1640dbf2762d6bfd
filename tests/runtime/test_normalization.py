from __future__ import annotations

import pytest

from atlas_lm.runtime.normalization import normalize_answer


@pytest.mark.parametrize(
    ("raw", "normal"),
    [
        ("The Beatles!", "beatles"),
        ("  an  A-list\tactor ", "alist actor"),
        ("anthem", "anthem"),
        ("O'Connor, 1,000 (m)", "oconnor 1000 m"),
        ("Röntgen", "röntgen"),
        ("the", ""),
    ],
)
def test_normalization_by_hand(raw, normal):
    assert normalize_answer(raw) == normal
