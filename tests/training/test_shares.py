"""Checkpoints of sharded runs: written by all processes, read by any number of them."""

import pytest
import torch

from atlas_lm.training import Checkpoints
from atlas_lm.training.checkpoint_files import load_model
from atlas_lm.training.state import weights
from tests.index.sharded_worker import run_processes
from tests.training.parallel_world import questions, tiny_atlas
from tests.training.shares_world import failing, resumed, state_of, trained, trained_again, whole

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]


def equal(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two processes with sharded halves, and its weights and moments at the end."""
    directory = tmp_path_factory.mktemp("sharded")
    (tensors, files), _ = run_processes(trained, 2, directory, "fsdp")
    return directory, tensors, files


def test_every_process_writes_its_share_and_nothing_is_pickled(run):
    _, _, files = run
    assert files == [
        "random.safetensors",
        "shares/shard-00001-model-00001-of-00001.safetensors",
        "shares/shard-00002-model-00001-of-00001.safetensors",
        "state.json",
    ]


@pytest.mark.parametrize(("size", "parallel"), [(3, "fsdp"), (2, "ddp")])
def test_other_numbers_of_processes_go_on_from_it(run, size, parallel):
    directory, tensors, _ = run
    order = None
    for found, step, ids in run_processes(resumed, size, directory, parallel):
        equal(found, tensors)
        assert step == 3
        assert order in (None, ids)
        order = ids
    state, _ = state_of("none")
    Checkpoints(directory / "run").load(state)
    assert [one.id for one in state.batches.take(1)[0].examples] == order


def test_one_process_goes_on_from_it_and_its_model_can_be_taken_out(run):
    directory, tensors, _ = run
    state, _ = state_of("none")
    path = Checkpoints(directory / "run").load(state)
    equal(whole(state), tensors)
    atlas = tiny_atlas(tied=False)
    load_model(path, {"reader": atlas.reader, "retriever": atlas.retriever})
    for name, tensor in weights(atlas.reader).items():
        assert torch.equal(tensor, tensors[f"model/reader.{name}"])
    assert len(questions()) == 24


def test_shards_can_take_up_what_one_process_has_written(tmp_path):
    tensors, files = trained(0, 1, tmp_path, "none")
    assert "model.safetensors" in files
    for found, step, _ in run_processes(resumed, 2, tmp_path, "fsdp"):
        equal(found, tensors)
        assert step == 3


def test_a_disk_that_is_full_for_one_process_is_said_by_all_and_harms_nothing(tmp_path):
    for said, left in run_processes(failing, 2, tmp_path):
        assert "disk is full" in said
        assert left == ["step-00000001"]


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_as_many_processes_go_on_bit_for_bit_with_dropout(tmp_path, parallel):
    assert run_processes(trained_again, 2, tmp_path, parallel) == [[], []]
