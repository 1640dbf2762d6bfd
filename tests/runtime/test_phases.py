import pytest
import torch

from atlas_lm.runtime.phases import PhaseClock, untimed


class Hand:
    """A clock moved by hand."""

    def __init__(self):
        self.at = 0.0

    def __call__(self):
        return self.at


def test_inner_phases_are_not_counted_twice_and_shares_add_up_to_one():
    hand = Hand()
    phases = PhaseClock(now=hand)
    with phases("encode"):
        hand.at += 2
        with phases("score"):
            hand.at += 3
        hand.at += 1
    hand.at += 4
    looked = phases.look()
    shares = {name: value for name, value in looked.items() if name.startswith("share_")}
    assert shares == {
        "share_score": pytest.approx(0.3),
        "share_encode": pytest.approx(0.3),
        "share_other": pytest.approx(0.4),
    }
    with phases("score"):
        hand.at += 5
    assert phases.look()["share_score"] == 1
    assert {name: total.seconds for name, total in phases.summary().items()} == {
        "score": 8,
        "encode": 3,
        "other": 4,
    }


def test_the_innermost_phase_that_failed_is_known():
    phases = PhaseClock()
    with pytest.raises(MemoryError), phases("encode"), phases("score"):
        raise MemoryError
    assert phases.failed_in == "score"
    with phases("save"):  # what is saved after it does not hide where it failed
        pass
    assert phases.failed_in == "score"


def test_each_phase_has_its_own_peak_of_memory():
    phases = PhaseClock()
    with phases("small"):
        pass
    with phases("large"):
        torch.ones(40_000_000).sum()
    with phases("after"):
        pass
    peaks = {name: total.peak_bytes for name, total in phases.totals.items()}
    assert peaks["large"] - peaks["small"] > 100e6
    assert peaks["large"] - peaks["after"] > 100e6 or peaks["large"] == peaks["after"]  # no Linux


def test_untimed_measures_nothing():
    with untimed("encode"):
        pass
