"""What each of several processes does in the tests of sharded checkpoints."""

from __future__ import annotations

from pathlib import Path

import torch

from atlas_lm.runtime import distributed
from atlas_lm.staleness import AlwaysFresh
from atlas_lm.training import Checkpoints, new_state, train
from tests.training.parallel_world import questions, tiny_atlas, training


def state_of(parallel: str = "fsdp", **values: object):
    cfg = training(bsz=6, accumulation_steps=1, total_steps=3, parallel=parallel, **values)
    atlas = tiny_atlas(tied=False)
    return new_state(atlas, questions(), cfg, freshness=AlwaysFresh()), cfg


def whole(state) -> dict[str, torch.Tensor]:
    """Every weight and moment, whole."""
    files = state.tensors()
    return {
        f"{file}/{name}": tensor.clone()
        for file in ("model", "optimizer")
        for name, tensor in files[file].items()
    }


def trained(rank: int, size: int, directory: Path, parallel: str):
    """Train three steps; return the weights and moments, and which file names there are."""
    state, cfg = state_of(parallel)
    done = train(state, cfg, checkpoints=Checkpoints(directory / "run"), log=lambda *_: None)
    assert state.is_sharded == (parallel == "fsdp")
    files = sorted(
        path.relative_to(done.checkpoint).as_posix()
        for path in done.checkpoint.rglob("*")
        if path.is_file()
    )
    return whole(state), files


def resumed(rank: int, size: int, directory: Path, parallel: str):
    """Take up the run's newest checkpoint on whatever processes there are now."""
    state, _ = state_of(parallel)
    Checkpoints(directory / "run").load(state)
    next_ids = [one.id for batch in state.batches.take(1) for one in batch.examples]
    return whole(state), state.step, distributed.in_order_of_ranks(next_ids)


def failing(rank: int, size: int, directory: Path):
    """A save in which one process cannot write its share."""
    import os

    from atlas_lm.runtime.errors import InputError
    from atlas_lm.training import shares

    state, _ = state_of()
    checkpoints = Checkpoints(directory / "full")
    state.step = 1
    checkpoints.save(state)
    write = shares.write_shares

    def full(tensors, path):
        write(tensors, path)
        if rank == 1:
            raise OSError(28, os.strerror(28))

    shares.write_shares = full
    state.step = 2
    try:
        checkpoints.save(state)
    except InputError as error:
        said = str(error)
    distributed.barrier()
    return said, sorted(path.name for path in (directory / "full").iterdir())


def trained_again(rank: int, size: int, directory: Path, parallel: str) -> list[str]:
    """Train three steps with dropout, then the last anew; return the tensors that differ."""
    run = Checkpoints(directory / parallel, keep_last=9)
    state, cfg = state_of(parallel, dropout=0.1, save_every=2)
    train(state, cfg, checkpoints=run, log=lambda *_: None)
    expected = whole(state)
    again, _ = state_of(parallel, dropout=0.1, save_every=2)
    torch.manual_seed(99 + rank)
    run.load(again, run.all()[0])
    assert again.step == 2
    train(again, cfg, checkpoints=Checkpoints(directory / f"{parallel}-2"), log=lambda *_: None)
    found = whole(again)
    return [name for name in expected if not torch.equal(expected[name], found[name])]
