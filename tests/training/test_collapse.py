import torch

from atlas_lm.training import CollapseMonitor


def fill(monitor, n, rows_of):
    for number in range(n):
        monitor.add([f"q{number}"], torch.tensor([rows_of(number)]))


def test_the_share_counts_each_query_once():
    monitor = CollapseMonitor()
    assert monitor.share is None
    monitor.add(["a", "b"], torch.tensor([[0, 1], [1, 2]]))
    assert monitor.share == 3 / 4
    monitor.add(["a"], torch.tensor([[5, 6]]))  # a again: its old rows are forgotten
    assert monitor.share == 1.0


def test_the_window_forgets():
    monitor = CollapseMonitor(window=2)
    fill(monitor, 3, lambda number: [0, 1] if number == 0 else [number * 2, number * 2 + 1])
    assert monitor.share == 1.0
    monitor.add(["q2"], torch.tensor([[2, 3]]))
    assert monitor.share == 0.5


def test_a_collapse_is_told_once_in_words(capsys):
    monitor = CollapseMonitor()
    fill(monitor, 40, lambda number: [0, 1, 2, 3])
    for step in range(3):
        monitor.check(step)
    shown = " ".join(capsys.readouterr().err.split())
    assert shown.count("may be collapsing") == 1
    assert "40 queries found only 2.5% of the distinct passages" in shown
    assert "training.retriever.lr" in shown


def test_health_and_little_evidence_are_silent(capsys):
    healthy, young = CollapseMonitor(), CollapseMonitor()
    fill(healthy, 40, lambda number: [4 * number + k for k in range(4)])
    fill(young, 31, lambda number: [0, 1, 2, 3])
    healthy.check(1)
    young.check(1)
    assert capsys.readouterr().err == ""


def test_a_small_corpus_is_no_collapse(capsys):
    """60 queries find each of 90 passages: all there are, though only 9% of 960 slots."""
    monitor = CollapseMonitor(90)
    fill(monitor, 60, lambda number: [(16 * number + k) % 90 for k in range(16)])
    monitor.check(1)
    assert monitor.share == 1.0
    assert capsys.readouterr().err == ""
    fill(monitor, 60, lambda number: [0, 1, 2, 3, 4, 5, 6, 7])
    monitor.check(2)
    assert monitor.share == 8 / 90
    assert "may be collapsing" in capsys.readouterr().err


def test_given_passages_do_not_count():
    monitor = CollapseMonitor()
    monitor.add(["a"], torch.full((1, 4), -1))
    monitor.add(["a"], None)
    monitor.add(["a"], torch.empty((1, 0), dtype=torch.int64))
    assert monitor.share is None
