"""Several processes do what one does on the same global batch."""

from __future__ import annotations

import multiprocessing

import pytest
import torch

from atlas_lm.runtime.distributed import World
from atlas_lm.training import Batches
from atlas_lm.training.parallel import READER_METHODS, RETRIEVER_METHODS
from atlas_lm.types import Generation
from tests.index.sharded_worker import run_processes
from tests.reader.causal_toys import toy_reader
from tests.training import parallel_world
from tests.training.parallel_world import (
    ADAPTERS,
    CASES,
    case,
    cases,
    gathered,
    low_precision,
    poisoned_run,
    questions,
    tiny_atlas,
    training,
)

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]


@pytest.fixture(autouse=True)
def preload():
    multiprocessing.set_forkserver_preload([parallel_world.__name__, "atlas_lm.index.sharded"])


def same(found, expected):
    """The first update is within 1e-5; AdamW divides by small numbers before the next."""
    gradients, metrics = found
    wanted, wanted_metrics = expected
    assert gradients.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-5, atol=1e-5)
    assert [one.keys() for one in metrics] == [one.keys() for one in wanted_metrics]
    for step, (one, other) in enumerate(zip(metrics, wanted_metrics, strict=True)):
        rel = 1e-4 if step else 1e-5
        for name, value in other.items():
            assert one[name] == pytest.approx(value, rel=rel, abs=1e-5), (step, name)


OBJECTIVES = ("pdist", "loop", "adist", "emdr2")
UNEVEN = ("fewer queries than processes", "candidates pooled, fewer queries than processes")


@pytest.mark.parametrize(("size", "names"), [(2, tuple(CASES)), (3, OBJECTIVES + UNEVEN)])
def test_replicated_processes_do_what_one_does(tmp_path, size, names):
    results = run_processes(cases, size, tmp_path, names, "ddp")
    for name in names:
        expected = case(name)
        for result in results:
            same(result[name], expected)


@pytest.mark.parametrize("size", [2, 3])
def test_processes_get_unequal_numbers_of_target_tokens(size):
    """What the cases are to hold for: else a mean of means would pass them."""
    cfg = training()
    batches = Batches(questions(), cfg.bsz, cfg.seed).take(cfg.accumulation_steps)
    examples = [example for batch in batches for example in batch.examples]
    counts = {
        sum(len(examples[place].target.split()) for place in World(rank=rank, size=size).share(12))
        for rank in range(size)
    }
    assert len(examples) == 12
    assert len(counts) > 1


SHARDED = (
    *OBJECTIVES,
    "untied, one batch",
    "candidates pooled",
    "the retriever frozen at first",
    "a poisoned example",
    "recomputed activations",
    ADAPTERS,
)


@pytest.mark.parametrize(("size", "names"), [(2, SHARDED), (3, OBJECTIVES)])
def test_sharded_processes_do_what_one_does(tmp_path, size, names):
    results = run_processes(cases, size, tmp_path, names, "fsdp")
    for name in names:
        expected = case(name)
        for result in results:
            same(result[name], expected)


@pytest.mark.parametrize("size", [2, 3])
def test_processes_gather_signals_and_learn_from_them_as_one_does(tmp_path, size):
    """Also after the signals were saved by all and taken up again by each."""
    metrics, ids, signals, weights = gathered()
    for result in run_processes(gathered, size, tmp_path):
        assert result[0] == pytest.approx(metrics, rel=1e-4)
        assert list(result[1]) == list(ids)
        assert result[2].keys() == signals.keys()
        for name, value in signals.items():
            torch.testing.assert_close(result[2][name], value, rtol=1e-5, atol=1e-5)
        for name, value in weights.items():
            torch.testing.assert_close(result[3][name], value, rtol=1e-3, atol=1e-4)


def test_shares_may_be_offloaded_and_computed_in_bfloat16(tmp_path):
    _, expected = case("emdr2")
    for metrics in run_processes(low_precision, 2, tmp_path):
        for one, other in zip(metrics, expected, strict=True):
            assert one["reader_loss"] == pytest.approx(other["reader_loss"], rel=0.02)
            assert one["grad_norm_reader"] == pytest.approx(other["grad_norm_reader"], rel=0.1)


def test_a_sharded_run_looks_for_the_guilty_among_unequally_many_examples_and_goes_on(tmp_path):
    guilty = next(Batches(questions(), 3, training().seed)).ids[0]
    for said, skipped, finished, kept in run_processes(poisoned_run, 2, tmp_path, "fsdp"):
        assert said == [f"step 1: loss is not finite, update skipped; examples: {guilty}"]
        assert (skipped, finished, kept) == (1, True, ["step-00000002"])


@pytest.mark.parametrize("kind", ["fid", "causal"])
def test_no_method_that_gathers_shares_calls_another(monkeypatch, kind):
    """FSDP would give the shares back, and gather them again as often as this process calls."""
    atlas = tiny_atlas()
    reader = atlas.reader if kind == "fid" else toy_reader()
    running: list[str] = []

    def alone(name, method):
        def called(*args, **options):
            assert not running
            running.append(name)
            try:
                return method(*args, **options)
            finally:
                running.pop()

        return called

    for half, names in ((reader, READER_METHODS), (atlas.retriever, RETRIEVER_METHODS)):
        for name in names:
            monkeypatch.setattr(half, name, alone(name, getattr(half, name)))
    query, passages, target = ["w1", "w2"], [atlas.store.all[:2]] * 2, ["w3", "w4"]
    inputs = reader.collate(query, passages)
    measure = frozenset({"passage_log_likelihood"})
    reader.loss(inputs, target)
    reader.signals(inputs, target, measure)
    reader.score(inputs, target)
    reader.score_each(inputs, [target, target])
    reader.attention_share(inputs, reader.generate(inputs, Generation(max_new_tokens=2)))
    for p in (0.0, 0.1):
        reader.set_dropout(p)
        reader.train().read(inputs, target, n_context=1, measure=measure)
    atlas.retriever.score(query, passages)
    atlas.retriever.embed_corpus(passages[0])
