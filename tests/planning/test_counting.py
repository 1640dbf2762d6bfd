from __future__ import annotations

import pytest
import torch

from atlas_lm.planning import work
from atlas_lm.planning.counting import Counter, counted
from tests.planning import small
from tests.planning.small import RealStep, causal, encoder, fid


def request(**fields):
    """Return a plan of models deeper than those that are counted."""
    return small.request(**{"reader": fid(3), "retriever": encoder(4), **fields})


def test_products_and_memory_by_hand():
    linear = torch.nn.Linear(30, 20, bias=False)
    x = torch.randn(10, 30)
    with Counter([x, *linear.parameters()]) as counter, torch.no_grad():
        y = linear(x).relu()
        assert counter.cost.flops == 2 * 10 * 30 * 20
        assert counter.cost.peak_bytes == 2 * 4 * 10 * 20  # the product, and its relu
        assert counter.cost.kept_bytes == 4 * 10 * 20
        del y
    assert counter.live_bytes == 0


PLANS = {
    "pdist": {},
    "loop": {"objective": "loop"},
    "reader alone": {"objective": "none"},
    "query side, rerank": {"query_side": True, "n_rerank": 8},
    "checkpointing": {"gradient_checkpointing": True},
    "one prompt": {"reader": causal()},
}


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_without_running_it_is_what_running_it_takes(plan):
    asked = request(**plan)
    predicted = work.training_cost(asked)
    frozen = asked.objective == "none"
    layers = (*asked.reader.layers, *(() if frozen else asked.retriever.layers))
    halves = work.training_halves(asked, layers)  # all layers, with numbers
    real = counted(lambda: work.micro_batch(halves, asked), halves)
    assert predicted.flops == pytest.approx(real.flops, rel=1e-9)
    assert predicted.peak_bytes == pytest.approx(real.peak_bytes, rel=0.02)
    assert predicted.kept_bytes == real.kept_bytes


@pytest.mark.parametrize(
    ("objective", "checkpointing"),
    [("pdist", False), ("emdr2", True), ("adist", False), ("loop", False)],
)
def test_training_takes_what_is_predicted(objective, checkpointing):
    asked = request(
        objective=objective, gradient_checkpointing=checkpointing, reader=fid(dropout_rate=0.1)
    )
    step = RealStep(asked)
    own = [*step.reader.parameters(), *step.encoder.parameters(), *step.encoder.buffers()]
    with Counter(own) as counter:
        step.losses()
    predicted = work.training_cost(asked)
    assert predicted.flops == pytest.approx(counter.cost.flops, rel=0.2)
    assert predicted.peak_bytes == pytest.approx(counter.cost.peak_bytes, rel=0.2)


def test_embedding_is_a_batch_of_the_library_s_size():
    cost, batch = work.embedding_cost(request())
    assert batch == 2048 // 50
    assert cost.flops > 0


def test_lower_precision_takes_less():
    full, half = (work.training_cost(request(precision=name)) for name in ("fp32", "bf16"))
    assert half.peak_bytes < full.peak_bytes
    assert half.flops == full.flops
