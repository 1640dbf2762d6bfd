import dataclasses

import pytest

from atlas_lm.cli.fits import _guess, plan_request, refuse_what_cannot_fit
from atlas_lm.cli.joint import open_halves
from atlas_lm.cli.tiny import joint_config
from atlas_lm.config import HalfConfig
from atlas_lm.planning import Machine
from atlas_lm.runtime import distributed
from atlas_lm.runtime.errors import InputError
from atlas_lm.staleness.config import StalenessConfig
from atlas_lm.staleness.refresher import PartialConfig
from atlas_lm.training.lora import LoRAConfig


@pytest.fixture(scope="module")
def opened(tiny):
    config = joint_config(tiny, 0)
    config = dataclasses.replace(config, reader=HalfConfig(path=str(tiny.drawn / "reader")))
    return open_halves(config), config


def machine(ram):
    return Machine(ram_bytes=int(ram), disk_bytes=10**12)


def test_what_plainly_fits_is_not_planned(opened, tmp_path):
    assert refuse_what_cannot_fit(*opened, tmp_path, machine=machine(64e9)) is None


def test_what_cannot_fit_is_refused_with_numbers_and_remedies_unless_forced(
    opened, tmp_path, capsys
):
    small = machine(300e6)
    with pytest.raises(
        InputError, match=r"(?s)train step.*GB of RAM.*checkpointing.*bsz=1.*--force"
    ):
        refuse_what_cannot_fit(*opened, tmp_path, machine=small)
    request = refuse_what_cannot_fit(*opened, tmp_path, machine=small, force=True)
    assert request.passages == 80
    assert request.n_context == 4
    assert "going on all the same" in capsys.readouterr().err


def test_a_disk_without_room_for_the_checkpoints_is_seen_whatever_the_memory(
    opened, tmp_path, monkeypatch, capsys
):
    atlas, config = opened
    weights = sum(
        one.numel() for half in (atlas.reader, atlas.retriever) for one in half.parameters()
    )
    training = dataclasses.replace(config.training, save_every=10, keep_last=2)
    config = dataclasses.replace(config, training=training)
    tight = Machine(ram_bytes=64 * 10**9, disk_bytes=3 * 12 * weights - 1)
    with pytest.raises(InputError, match=r"checkpoints need .* GB of disk.*keep_last.*--force"):
        refuse_what_cannot_fit(atlas, config, tmp_path, machine=tight)
    assert refuse_what_cannot_fit(atlas, config, tmp_path, machine=tight, force=True) is None
    assert "going on all the same" in capsys.readouterr().err
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "model.safetensors").write_bytes(b"x")  # it will be removed
    monkeypatch.setattr(distributed, "world", lambda: distributed.World(size=2))
    sharded = dataclasses.replace(config.training, parallel="fsdp")
    config = dataclasses.replace(config, training=sharded)
    assert refuse_what_cannot_fit(atlas, config, tmp_path, machine=tight) is None
    assert "not planned" in capsys.readouterr().err


def test_several_processes_share_out_the_queries_and_the_memory_of_their_machines(
    opened, monkeypatch
):
    atlas, config = opened
    training = dataclasses.replace(config.training, bsz=12, accumulation_steps=2)
    config = dataclasses.replace(config, training=training)
    small = dataclasses.replace(training, bsz=1, accumulation_steps=1)
    one_query = dataclasses.replace(config, training=small)
    passages = 4096 * 80
    alone = _guess(atlas, one_query) - passages
    monkeypatch.setattr(distributed, "world", lambda: distributed.World(size=8))
    request = plan_request(atlas, config, atlas.reader.device, machines=4)
    assert (request.bsz, request.accumulation_steps) == (3, 1)
    assert (request.world, request.machines, request.ranks_of_machine) == (8, 4, 2)
    assert _guess(atlas, one_query, machines=4) - passages == pytest.approx(2 * alone)
    assert _guess(atlas, one_query) - passages == pytest.approx(8 * alone)


def test_adapters_and_the_retriever_s_recomputing_are_planned(opened):
    pytest.importorskip("peft")
    _, config = opened
    half = dataclasses.replace(config.reader, lora=LoRAConfig(rank=2))
    recomputing = dataclasses.replace(config.training, gradient_checkpointing_retriever=True)
    config = dataclasses.replace(config, reader=half, training=recomputing)
    atlas = open_halves(config)
    request = plan_request(atlas, config, atlas.reader.device)
    learn = [one.numel() for one in atlas.reader.parameters() if one.requires_grad]
    assert request.reader_trained == sum(learn) > 0
    assert request.retriever_trained is None
    assert request.gradient_checkpointing_retriever


@pytest.mark.parametrize(
    ("fields", "refreshed"),
    [
        ({}, 0),
        ({"refresh_schedule": "2"}, None),
        ({"refresh_schedule": "2", "refresh": "partial", "partial": PartialConfig(budget=8)}, 8),
    ],
)
def test_what_a_recipe_refreshes_is_planned(opened, fields, refreshed):
    atlas, config = opened
    config = dataclasses.replace(config, staleness=StalenessConfig(**fields))
    assert plan_request(atlas, config, atlas.reader.device).refreshed == refreshed
