import json
from types import SimpleNamespace

import pytest
import torch

from atlas_lm.runtime import distributed
from atlas_lm.training import HalfOptimizer
from atlas_lm.training.memory import OutOfMemoryError, helpful, is_out_of_memory
from atlas_lm.training.profile import StepProfiler
from tests.training.tiny import FakeAtlas, all_tensors, config, run

FULL = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to ...")


def full_at(phase, error=FULL):
    """A model that runs out of memory in a phase."""

    class Full(FakeAtlas):
        def losses(self, batch, *, train_retriever, phases):
            with phases(phase):
                raise error

    return Full()


@pytest.mark.parametrize(
    ("phase", "first"),
    [
        ("encode", "training.gradient_checkpointing_reader=true"),
        ("score", "context.retriever_n_context"),
        ("retrieve", "context.n_rerank"),
    ],
)
def test_out_of_memory_names_the_phase_and_three_settings(tmp_path, phase, first):
    with pytest.raises(OutOfMemoryError, match=f"in the phase '{phase}'") as error:
        run(tmp_path, config(), model=full_at(phase))
    settings = [line for line in str(error.value).splitlines() if line.startswith("  ")]
    assert len(settings) == 3
    assert settings[0].strip().startswith(first)


def test_python_s_own_error_of_memory_has_no_words_and_is_explained_all_the_same(tmp_path):
    with pytest.raises(OutOfMemoryError, match=r"'retrieve' \(MemoryError\)"):
        run(tmp_path, config(), model=full_at("retrieve", MemoryError()))


def full_from(step, phase):
    """A model that runs out of memory in every step from one on."""

    class Full(FakeAtlas):
        def losses(self, batch, *, train_retriever, phases):
            if len(self.calls) >= 2 * step:
                with phases(phase):
                    raise FULL
            return super().losses(batch, train_retriever=train_retriever, phases=phases)

    return Full()


@pytest.mark.parametrize("save_every", [0, 1, 5])
def test_out_of_memory_loses_no_update(tmp_path, save_every):
    whole = run(tmp_path / "whole", config())
    cfg = config(save_every=save_every, keep_last=9)
    with pytest.raises(OutOfMemoryError, match="resume from step-00000005") as error:
        run(tmp_path / "run", cfg, model=full_from(5, "refresh"))
    assert "staleness.query_side=true" in str(error.value)
    assert "no refresh (in a new run)" in str(error.value)
    again = run(tmp_path / "run", cfg, resume=True, model=FakeAtlas(seed=5))
    assert [step for step, _ in again.log] == [6, 7, 8]
    for key, tensor in all_tensors(whole.state).items():
        assert torch.equal(tensor, all_tensors(again.state)[key]), key


def test_a_step_that_may_have_moved_some_weights_is_not_saved(tmp_path, monkeypatch):
    moves = []

    def full(half, step):
        moves.append(step)
        if len(moves) == 6:  # the retriever's third
            raise FULL

    monkeypatch.setattr(HalfOptimizer, "update", full)
    with pytest.raises(OutOfMemoryError, match="'update'") as error:
        run(tmp_path, config())
    assert "no checkpoint was written yet" in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_first_step_that_fails_leaves_nothing_to_resume(tmp_path):
    with pytest.raises(OutOfMemoryError, match="change a setting and start anew"):
        run(tmp_path, config(), model=full_at("encode"))
    assert list(tmp_path.iterdir()) == []


def test_settings_in_use_are_not_advised():
    cfg = config(bsz=1, precision="bf16", gradient_checkpointing_reader=True)
    for phase in ("data", "retrieve", "encode", "score", "backward", "update", "refresh", "save"):
        settings = helpful(phase, cfg, FakeAtlas())
        assert len(settings) == len(set(settings)) >= 3
        assert not any(
            name in setting
            for setting in settings
            for name in ("bsz=", "bf16", "checkpointing_reader")
        )
    assert (
        "training.bsz=1 training.accumulation_steps=8"
        in helpful("data", config(bsz=4), FakeAtlas())[0]
    )


def advised(phase, cfg, *, kind="fid", learns=True):
    model = FakeAtlas()
    model.reader.settings = SimpleNamespace(kind=kind)
    model.retriever.passage_encoder = model.retriever.passages.requires_grad_(learns)
    return " ".join(helpful(phase, cfg, model))


def test_only_what_the_run_has_a_use_for_is_advised(monkeypatch):
    cfg = config(parallel="fsdp")
    assert "query_side" in advised("refresh", cfg)
    assert "int8" not in advised("refresh", cfg)
    assert "query_side" not in advised("refresh", cfg, learns=False)
    assert "int8" in advised("refresh", cfg, learns=False)
    assert "settings.text_maxlength" in advised("encode", cfg)
    assert "settings.passage_maxlength" in advised("encode", cfg, kind="causal")
    frozen = config(freeze_retriever_steps=cfg.total_steps)
    assert "retriever" not in advised("backward", frozen)
    assert "save_in_background" not in advised("save", cfg)
    assert advised("save", config(save_in_background=True)).startswith("training.save_in_back")
    assert "fsdp" in advised("update", cfg)
    monkeypatch.setattr(distributed, "world", lambda: distributed.World(size=2))
    assert "fsdp" not in advised("update", cfg)


def test_only_errors_of_memory_are_taken_for_such(tmp_path):
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(ValueError("out of memory"))
    model = FakeAtlas()
    model.losses = lambda *args, **options: 1 / 0
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, config(), model=model)


def test_a_profile_names_the_phases_of_the_steps_asked_for(tmp_path):
    model = FakeAtlas()
    seen = []

    def losses(batch, *, train_retriever, phases):
        seen.append(torch.autograd._profiler_enabled())
        return FakeAtlas.losses(model, batch, train_retriever=train_retriever, phases=phases)

    model.losses = losses
    with StepProfiler(tmp_path, 2) as profiler:
        run(tmp_path / "checkpoints", config(accumulation_steps=1), model=model, after=profiler)
    assert seen == [False, True, True] + [False] * 5
    trace = json.loads((tmp_path / "profile" / "step-2-3.json").read_text())
    names = {event.get("name") for event in trace["traceEvents"]}
    assert {"phase encode", "phase backward", "phase data"} <= names
    assert (tmp_path / "profile" / "step-2-3.txt").is_file()


def test_a_run_shorter_than_its_profile_still_leaves_one(tmp_path):
    with StepProfiler(tmp_path, 50) as profiler:
        run(tmp_path / "checkpoints", config(), after=profiler)
    assert (tmp_path / "profile" / "step-2-stopped.json").is_file()
