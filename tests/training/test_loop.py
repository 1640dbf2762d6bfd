from types import SimpleNamespace

import pytest

from atlas_lm.runtime.distributed import World
from atlas_lm.runtime.errors import InputError
from atlas_lm.training import TrainingConfig, loop, new_state
from atlas_lm.training.loop import every
from tests.training.tiny import FakeAtlas, config, examples, run


def test_step_is_one_update_whatever_the_accumulation(tmp_path):
    done = run(tmp_path, config(accumulation_steps=3))
    assert len(done.model.calls) == 8 * 3
    assert [step for step, _ in done.log] == list(range(1, 9))
    assert done.state.batches.position == 8 * 3 * 2
    assert done.log[-1][1]["epoch"] == pytest.approx(4.8)


def test_the_retriever_thaws_when_it_is_told_to(tmp_path):
    done = run(tmp_path, config(freeze_retriever_steps=3, accumulation_steps=1))
    assert [trained for _, trained in done.model.calls] == [False] * 3 + [True] * 5
    assert "retriever_loss" not in done.log[2][1]
    # its schedule begins at its own first update: linear starts at a tenth, peaks 2 updates on
    rates = [metrics["lr_retriever"] for _, metrics in done.log[3:]]
    assert rates[:3] == pytest.approx([0.005, 0.0275, 0.05])


def test_the_reader_alone(tmp_path):
    done = run(tmp_path, config(freeze_retriever_steps=8))
    assert done.state.optimizers.retriever is None
    assert all("retriever_loss" not in metrics for _, metrics in done.log)


def test_training_lowers_both_losses(tmp_path):
    done = run(tmp_path, config(total_steps=40, dropout=0.0), schedule="never")
    first, last = done.log[0][1], done.log[-1][1]
    assert last["reader_loss"] < first["reader_loss"] / 2
    assert last["kl"] < first["kl"]


def test_metrics_are_all_there(tmp_path):
    metrics = run(tmp_path, config()).log[-1][1]
    assert {
        "reader_loss",
        "retriever_loss",
        "kl",
        "entropy_gold",
        "entropy_retriever",
        "grad_norm_reader",
        "grad_norm_retriever",
        "lr_reader",
        "lr_retriever",
        "distinct_passages",
        "steps_since_refresh",
        "staleness_drift",
        "staleness_topk_overlap",
        "passages_embedded",
        "probe_embedded",
        "skipped_updates",
        "epoch",
        "tokens_per_second",
        "queries_per_second",
    } == {name for name in metrics if not name.startswith(("share_", "peak_mb_"))}
    shares = {name: value for name, value in metrics.items() if name.startswith("share_")}
    assert {"share_encode", "share_backward", "share_refresh", "share_other"} < shares.keys()
    assert sum(shares.values()) == pytest.approx(1, abs=1e-6)
    assert metrics["retriever_loss"] == pytest.approx(metrics["kl"], rel=1e-5)
    assert metrics["steps_since_refresh"] == 2  # refreshed before update 6 of 8
    assert metrics["passages_embedded"] == 2 * 12
    assert metrics["probe_embedded"] == 8 * 12
    assert 0 < metrics["staleness_drift"] < 1
    assert 0 < metrics["staleness_topk_overlap"] <= 1


def test_the_last_step_is_evaluated_logged_and_saved(tmp_path):
    cfg = config(log_every=100, evaluate_every=3)
    done = run(tmp_path, cfg, evaluate=lambda: {"exact_match": 0.25})
    evaluated = [step for step, metrics in done.log if "exact_match" in metrics]
    assert evaluated == [3, 6, 8]
    assert [step for step, metrics in done.log if "reader_loss" in metrics] == [8]
    assert done.outcome.checkpoint.name == "step-00000008"
    assert done.outcome.finished


def test_refreshes_come_when_due_and_never_at_the_fresh_start(tmp_path):
    seen = []
    model = FakeAtlas()
    swap = model.index.update_
    model.index.update_ = lambda rows, new, **made: (
        seen.append(len(model.calls)),
        swap(rows, new, **made),
    )
    run(tmp_path, config(accumulation_steps=1), model=model, schedule="0-5:2,5-:3")
    assert seen == [2, 4, 6]


def test_an_evaluation_in_eval_mode_does_not_leak_into_training(tmp_path):
    model = FakeAtlas()
    modes = []
    losses = model.losses
    model.losses = lambda batch, **options: (
        modes.append(model.reader.training and model.retriever.training) or losses(batch, **options)
    )

    def evaluate():
        model.reader.eval()
        model.retriever.eval()
        return {}

    run(tmp_path, config(evaluate_every=1), model=model, evaluate=evaluate)
    assert all(modes)


def test_memory_and_dropout_are_set_as_configured():
    model = FakeAtlas()
    cfg = config(gradient_checkpointing_reader=True, dropout=0.3)
    new_state(model, examples(), cfg)
    assert model.reader.checkpointing
    assert not hasattr(model.retriever, "checkpointing")
    assert model.reader.dropout.p == model.retriever.dropout.p == 0.3


def test_several_processes_are_told_that_saves_are_waited_for(tmp_path, monkeypatch, capsys):
    run(tmp_path / "one", config(total_steps=4, save_in_background=True))
    assert "save_in_background" not in capsys.readouterr().err
    two = SimpleNamespace(world=lambda: World(size=2), any_process=bool)
    monkeypatch.setattr(loop, "distributed", two)
    run(tmp_path / "two", config(total_steps=4, save_in_background=True))
    assert "save_in_background=true has no effect" in capsys.readouterr().err


def test_a_period_of_zero_never_comes_round():
    assert [step for step in range(7) if every(3, step)] == [0, 3, 6]
    assert not any(every(0, step) for step in range(7))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"bsz": 0}, ["training.bsz=0", "at least 1"]),
        ({"keep_last": 0}, ["training.keep_last=0"]),
        ({"freeze_retriever_steps": 9}, ["freeze_retriever_steps=9", "total_steps=8"]),
        ({"precision": "fp16"}, ["training.precision='fp16'"]),
        ({"dropout": 1.0}, ["training.dropout=1.0"]),
        ({"retriever_loss_weight": -1.0}, ["retriever_loss_weight=-1.0"]),
        ({"total_steps": 1}, ["training.reader.warmup_steps=2", "training.total_steps=1"]),
        (
            {"freeze_retriever_steps": 7},
            ["training.retriever.warmup_steps=2", "training.freeze_retriever_steps=7"],
        ),
    ],
)
def test_contradictions_are_refused_with_both_fields(values, words):
    with pytest.raises(InputError) as error:
        config(**values)
    assert all(word in str(error.value) for word in words)


def test_the_options_are_these():
    import dataclasses

    assert [field.name for field in dataclasses.fields(TrainingConfig)] == [
        "total_steps",
        "bsz",
        "accumulation_steps",
        "parallel",
        "fsdp",
        "timeout_minutes",
        "reader",
        "retriever",
        "freeze_retriever_steps",
        "signal_round",
        "signal_epochs",
        "signal_batches",
        "reader_loss_weight",
        "retriever_loss_weight",
        "precision",
        "seed",
        "log_every",
        "evaluate_every",
        "save_every",
        "save_in_background",
        "keep_last",
        "best_metric",
        "gradient_checkpointing_reader",
        "gradient_checkpointing_retriever",
        "dropout",
    ]
    assert dataclasses.asdict(TrainingConfig().reader) == {
        "lr": 1e-4,
        "lr_of": {},
        "schedule": "linear",
        "warmup_steps": 0,
        "lr_floor": 0.1,
        "weight_decay": 0.01,
        "beta1": 0.9,
        "beta2": 0.999,
        "eps": 1e-6,
        "max_grad_norm": 1.0,
    }
