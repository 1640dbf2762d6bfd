from __future__ import annotations

import json

from rich.console import Console

from atlas_lm.evaluation import Metrics, comparison_table, metrics_table, to_json
from atlas_lm.evaluation.bootstrap import Estimate, compare
from atlas_lm.evaluation.report import comparisons_to_json, display_name, show_percent


def printed(table) -> str:
    console = Console(width=140, record=True, file=None, quiet=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_people_see_percent_and_intervals():
    metrics = Metrics({"exact_match": Estimate(0.25, 0.125, 0.375, 40)})
    text = printed(metrics_table(metrics))
    assert "exact match" in text
    assert "25.0 [12.5, 37.5]" in text


def test_machines_see_fractions():
    metrics = Metrics({"recall_at_5": Estimate(0.25, 0.125, 0.375, 40)})
    assert json.loads(json.dumps(to_json(metrics))) == {
        "recall_at_5": {"mean": 0.25, "low": 0.125, "high": 0.375, "n": 40}
    }


def test_a_difference_inside_its_noise_is_printed_as_none():
    better = compare("exact_match", [0.0] * 50, [1.0] * 30 + [0.0] * 20)
    same = compare("f1", [0.0, 1.0] * 25, [0.0, 1.0] * 24 + [1.0, 1.0])
    text = printed(comparison_table([better, same]))
    lines = {line.split()[1]: line for line in text.splitlines() if "│" in line}
    assert "improved" in lines["exact"]
    assert "+60.0" in lines["exact"]
    assert "no difference beyond noise" in lines["F1"]
    table = comparisons_to_json([better, same])
    assert table["f1"]["verdict"] == "no difference beyond noise"
    assert table["f1"]["changed"] == 1


def test_names_and_zeros():
    assert display_name("recall_at_20") == "R@20"
    assert display_name("gold_recall_at_5") == "R@5, gold passages"
    assert display_name("my_metric") == "my metric"
    assert show_percent(-0.0001, signed=True) == "+0.0"
