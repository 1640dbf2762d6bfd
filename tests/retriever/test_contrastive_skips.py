"""Steps of contrastive training whose gradient is not finite."""

from dataclasses import replace

import pytest
import torch

from atlas_lm.retriever.contrastive_checkpoint import PretrainCheckpoints
from atlas_lm.retriever.contrastive_fit import fit_resumably, resume_from
from atlas_lm.runtime.errors import InputError
from tests.retriever.contrastive_worker import (
    FIT,
    contrastive_learner,
    supervised_learner,
    write_corpus,
    write_questions,
)


@pytest.mark.parametrize("kind", ["in_batch", "queue"])
def test_a_step_whose_gradient_is_not_finite_moves_nothing_and_is_counted(
    plain_dir, tmp_path, kind
):
    write_corpus(tmp_path / "passages.jsonl")
    learner = contrastive_learner(tmp_path, plain_dir, kind, FIT)
    held: list[dict[str, torch.Tensor]] = []
    spoil(learner, {2}, at_each=lambda: held.append(weights_and_keys(learner)))
    logged = []
    kept = PretrainCheckpoints(tmp_path / "run", {})
    fit_resumably(learner, FIT, kept, log=lambda _, metrics: logged.append(metrics))
    assert [line["skipped"] for line in logged] == [0, 0, 1, *[1] * (FIT.steps - 3)]
    before, after = held[2:4]
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert any(not torch.equal(held[1][name], before[name]) for name in before)
    assert all(tensor.isfinite().all() for tensor in weights_and_keys(learner).values())


def test_ten_bad_gradients_in_a_row_end_the_run_with_advice(plain_dir, tmp_path):
    write_corpus(tmp_path / "passages.jsonl")
    fit = replace(FIT, save_every=0, steps=20, warmup_steps=1)
    learner = contrastive_learner(tmp_path, plain_dir, "in_batch", fit)
    spoil(learner, set(range(2, 20)))
    kept = PretrainCheckpoints(tmp_path / "run", {})
    with pytest.raises(InputError, match=r"step 12: the gradients of 10 steps.*learning_rate"):
        fit_resumably(learner, fit, kept, log=lambda *_: None)
    step, tensors = kept.load()
    assert step == 12
    assert {name: int(count) for name, count in tensors["skips"].items()} == {
        "total": 10,
        "in_row": 0,
    }
    assert all(tensor.isfinite().all() for tensor in tensors["model"].values())


@pytest.mark.parametrize("kind", ["in_batch", "dpr"])
def test_a_resumed_run_counts_on_the_skips_whose_examples_were_named(
    plain_dir, tmp_path, capsys, kind
):
    write_corpus(tmp_path / "passages.jsonl")
    write_questions(tmp_path / "questions.jsonl")
    kept, logged = PretrainCheckpoints(tmp_path / "run", {}), []
    asked = iter([False, False, True])
    for start in (0, 2):
        learner = (
            supervised_learner(tmp_path, plain_dir)
            if kind == "dpr"
            else contrastive_learner(tmp_path, plain_dir, kind)
        )
        spoil(learner, {1})
        assert start == 0 or resume_from(learner, kept) == start
        fit_resumably(
            learner,
            FIT,
            kept,
            log=lambda _, metrics: logged.append(metrics["skipped"]),
            start=start,
            stop=lambda: next(asked, False),
        )
    assert logged == [0, *[1] * (FIT.steps - 1)]
    named = learner.names(1)
    assert len(set(named)) == FIT.batch_size
    told = "".join(capsys.readouterr().err.split())
    assert f"updateskipped;examples:{','.join(named)}".replace(" ", "") in told


def spoil(learner, steps, at_each=lambda: None):
    """Make the loss of some steps NaN; call ``at_each`` before every step."""
    sound = learner.loss

    def loss(step):
        at_each()
        total, metrics = sound(step)
        return total * (float("nan") if step in steps else 1.0), metrics

    learner.loss = loss


def weights_and_keys(learner):
    """Return a copy of all that training moves."""
    moved = dict(learner.module.state_dict())
    for part, tensors in learner.tensors().items():
        moved |= {f"{part}.{name}": tensor for name, tensor in tensors.items()}
    return {name: tensor.clone() for name, tensor in moved.items()}
