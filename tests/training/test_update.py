import copy
import re

import pytest
import torch

from atlas_lm.training import TrainingStopped, make_optimizers, update
from atlas_lm.training.state import weights
from atlas_lm.types import Batch
from tests.training.tiny import FakeAtlas, config, examples, run


def gradients(model, micro_batches, cfg, monkeypatch):
    """The gradients that the optimizers saw."""
    seen = {}

    def spy(name):
        def note(step):
            half = getattr(model, name)
            seen.update({f"{name}.{n}": p.grad.clone() for n, p in half.named_parameters()})

        return note

    optimizers = make_optimizers(model, cfg)
    for name, half in optimizers.halves.items():
        monkeypatch.setattr(half, "update", spy(name))
    done = update(model, micro_batches, optimizers, cfg, step=0, train_retriever=True)
    return seen, done.metrics


def test_accumulation_equals_the_large_batch(monkeypatch):
    """Micro-batches of unequal target lengths: 1, 2, 3, 1 | 2, 3 | ... tokens."""
    data = examples(8)
    cfg = config(dropout=0.0)
    model = FakeAtlas()
    for half in (model.reader, model.retriever):
        half.set_dropout(0.0)
    large, metrics = gradients(model, [Batch(tuple(data))], cfg, monkeypatch)
    parts = [Batch(tuple(data[:4])), Batch(tuple(data[4:6])), Batch(tuple(data[6:]))]
    small, split_metrics = gradients(model, parts, cfg, monkeypatch)
    assert large.keys() == small.keys()
    for name, gradient in large.items():
        torch.testing.assert_close(small[name], gradient, rtol=1e-5, atol=1e-7)
    for name in ("reader_loss", "retriever_loss", "kl", "entropy_gold", "grad_norm_reader"):
        assert split_metrics[name] == pytest.approx(metrics[name], rel=1e-5)


def test_the_gradient_is_that_of_nats_per_token_and_per_query(monkeypatch):
    data = examples(6)
    model = FakeAtlas()
    for half in (model.reader, model.retriever):
        half.set_dropout(0.0)
    twin = copy.deepcopy(model)
    cfg = config(reader_loss_weight=2.0, retriever_loss_weight=3.0, reader=free(), retriever=free())
    seen, _ = gradients(model, [Batch(tuple(data))], cfg, monkeypatch)
    losses = twin.losses(Batch(tuple(data)), train_retriever=True)
    (2 * losses.reader.mean + 3 * losses.retriever_total / 6).backward()
    for name, parameter in twin.reader.named_parameters():
        torch.testing.assert_close(seen[f"reader.{name}"], parameter.grad)
    for name, parameter in twin.retriever.named_parameters():
        torch.testing.assert_close(seen[f"retriever.{name}"], parameter.grad)


def free():
    from atlas_lm.training import OptimConfig

    return OptimConfig(max_grad_norm=0.0)


def test_clipping_is_per_half_and_norms_are_those_before_it(monkeypatch):
    from atlas_lm.training import OptimConfig

    cfg = config(reader=OptimConfig(max_grad_norm=0.01), retriever=OptimConfig(max_grad_norm=0))
    seen, metrics = gradients(FakeAtlas(), [Batch(tuple(examples(6)))], cfg, monkeypatch)
    norms = {
        half: torch.stack([g.norm() for n, g in seen.items() if n.startswith(half)]).norm().item()
        for half in ("reader", "retriever")
    }
    assert norms["reader"] == pytest.approx(0.01, rel=1e-3)
    assert metrics["grad_norm_reader"] > 0.01
    assert norms["retriever"] == pytest.approx(metrics["grad_norm_retriever"], rel=1e-5)


def test_a_frozen_retriever_does_not_move():
    model = FakeAtlas()
    before = {name: tensor.clone() for name, tensor in weights(model.retriever).items()}
    cfg = config()
    optimizers = make_optimizers(model, cfg)
    done = update(
        model, [Batch(tuple(examples(4)))], optimizers, cfg, step=3, train_retriever=False
    )
    for name, tensor in weights(model.retriever).items():
        assert torch.equal(tensor, before[name])
    assert "retriever_loss" not in done.metrics
    assert "grad_norm_retriever" not in done.metrics
    assert not optimizers.retriever.tensors()


def test_autocast_keeps_fp32_weights(monkeypatch):
    cfg = config(precision="bf16")
    model = FakeAtlas()
    seen_dtypes = []
    forward = model.reader.taste.forward
    monkeypatch.setattr(
        model.reader.taste,
        "forward",
        lambda x: seen_dtypes.append((y := forward(x)).dtype) or y,
    )
    update(
        model,
        [Batch(tuple(examples(4)))],
        make_optimizers(model, cfg),
        cfg,
        step=3,
        train_retriever=True,
    )
    assert seen_dtypes == [torch.bfloat16]
    assert all(tensor.dtype == torch.float32 for tensor in weights(model.reader).values())


def test_a_loss_that_is_not_finite_skips_the_update_and_names_the_examples(tmp_path, capsys):
    model = FakeAtlas()
    model.poisoned = frozenset({"e3"})
    done = run(tmp_path, config(total_steps=5), model=model)
    shown = " ".join(capsys.readouterr().err.split())
    assert "update skipped; examples:" in shown
    assert "e3" in shown
    assert done.state.skipped == 2  # twenty examples of ten: two passes
    assert done.state.skipped_in_row in (0, 1)
    assert done.log[-1][1]["skipped_updates"] == 2
    assert all(torch.isfinite(tensor).all() for tensor in weights(model.reader).values())


def test_the_guilty_example_of_a_large_batch_is_named_alone(tmp_path, capsys):
    model = FakeAtlas()
    model.poisoned = frozenset({"e37"})
    cfg = config(total_steps=5, bsz=20)
    done = run(tmp_path, cfg, model=model, data=examples(40))
    shown = " ".join(capsys.readouterr().err.split())
    assert done.state.skipped == 5
    assert "loss is not finite, update skipped; examples: e37 " in shown
    assert not re.search(r"\be(?!37)\d+", shown)


def test_a_gradient_that_is_not_finite_is_told_from_a_loss(tmp_path, capsys):
    model = FakeAtlas()
    model.reader.taste.weight.register_hook(lambda grad: grad * torch.inf)
    run(tmp_path, config(total_steps=2), model=model)
    shown = " ".join(capsys.readouterr().err.split())
    assert "not finite (that of each example alone is), update skipped; examples: e" in shown


def test_a_skipped_update_changes_nothing():
    model = FakeAtlas()
    model.poisoned = frozenset({"e5"})
    before = {name: tensor.clone() for name, tensor in weights(model.reader).items()}
    cfg = config()
    optimizers = make_optimizers(model, cfg)
    parts = [Batch(tuple(examples(4))), Batch(tuple(examples(8)[4:]))]
    done = update(model, parts, optimizers, cfg, step=3, train_retriever=True)
    assert done.skipped == ("e4", "e5", "e6", "e7")
    assert done.metrics == {}
    for name, tensor in weights(model.reader).items():
        assert torch.equal(tensor, before[name])
    assert not optimizers.reader.tensors()
    assert all(p.grad is None for p in model.reader.parameters())


def test_a_gradient_that_is_not_finite_skips_the_update():
    model = FakeAtlas()
    model.reader.taste.weight.register_hook(lambda grad: grad * torch.inf)
    cfg = config()
    done = update(
        model,
        [Batch(tuple(examples(2)))],
        make_optimizers(model, cfg),
        cfg,
        step=0,
        train_retriever=True,
    )
    assert done.skipped == ("e0", "e1")


def test_ten_in_a_row_stop_the_run_and_the_checkpoint_stays(tmp_path):
    cfg = config(total_steps=40, save_every=2)
    model = FakeAtlas()
    losses = model.losses

    def failing_later(batch, *, train_retriever, **options):
        if len(model.calls) >= 6:
            model.poisoned = frozenset(example.id for example in examples())
        return losses(batch, train_retriever=train_retriever)

    model.losses = failing_later
    with pytest.raises(TrainingStopped, match=r"(?s)10 updates in a row.*lr.*warmup_steps.*resume"):
        run(tmp_path, cfg, model=model)
    newest = sorted(tmp_path.iterdir())[-1]
    again = FakeAtlas()
    resumed = run(tmp_path, config(total_steps=15), model=again, resume=True)
    assert newest.name <= "step-00000013"
    assert resumed.outcome.finished
    assert all(torch.isfinite(tensor).all() for tensor in weights(again.reader).values())
