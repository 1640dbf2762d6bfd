from __future__ import annotations

import pytest

from atlas_lm.evaluation.curves import collect_series, panels
from atlas_lm.evaluation.plot import Panel, line_chart, nice_ticks, short_number


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, [0, 0.25, 0.5, 0.75, 1]),
        (0.22, 0.76, [0.2, 0.4, 0.6, 0.8]),
        (3, 3, [1, 2, 3, 4, 5]),
        (0, 0, [-1, -0.5, 0, 0.5, 1]),
        (-2, 9, [-5, 0, 5, 10]),
        (1e-6, 4e-6, [1e-6, 2e-6, 3e-6, 4e-6]),
    ],
)
def test_ticks_are_round_and_reach_around_the_data(low, high, ticks):
    assert nice_ticks(low, high) == pytest.approx(ticks)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.0534, "0.0534"), (1234.0, "1234"), (12345, "12.35k"), (3e-5, "3e-05")],
)
def test_numbers_stay_short(value, text):
    assert short_number(value) == text


def test_series_come_from_nested_rows_and_drop_what_is_no_number():
    rows = [
        {"step": 1, "a": 2, "text": "x", "flag": True, "bad": float("inf")},
        {"a": 5},
        {"step": 2, "evaluation": {"mrr": {"mean": 0.25, "low": 0, "high": 1, "n": 4}, "f1": 0.5}},
    ]
    assert collect_series(rows) == {
        "a": [(1, 2)],
        "evaluation/mrr": [(2, 0.25)],
        "evaluation/f1": [(2, 0.5)],
    }


def test_known_series_share_a_chart_and_the_rest_is_kept():
    rows = [
        {"step": step, "entropy_gold": 1.0, "entropy_retriever": 2.0, "odd": step, "flat": 1}
        | {"lr_reader": 1e-4, "time": step}
        for step in (1, 2)
    ]
    main, rest = panels(rows)
    assert [(panel.title, list(panel.series)) for panel in main] == [
        ("Entropy over the passages", ["gold", "retriever"])
    ]
    assert [panel.title for panel in rest] == ["Learning rate", "odd"]


def test_the_same_metric_of_two_sets_is_told_apart():
    row = {"step": 1, "dev": {"mrr": 0.1}, "test": {"mrr": 0.2}}
    main, _ = panels([row])
    assert list(main[0].series) == ["MRR@20 (dev)", "MRR@20 (test)"]


def test_charts_of_one_point_and_of_many():
    assert "<circle" in line_chart(Panel("t", "u", {"a": [(5, 1.0)]}))
    long = line_chart(Panel("t", "u", {"a": [(x, x % 7) for x in range(5000)]}))
    assert long.count("<polyline") == 2
    assert "<circle" not in long
    assert len(long) < 20_000
