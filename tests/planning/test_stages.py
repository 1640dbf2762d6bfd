from __future__ import annotations

import dataclasses
import sys

import pytest

from atlas_lm.index import IndexSettings, kinds
from atlas_lm.planning import Machine, Throughput, assumed, stages, state_bytes
from atlas_lm.planning.work import training_cost
from tests.index.conftest import DIM
from tests.index.keeping import built, write
from tests.planning.small import RealStep, encoder, request

building = sys.modules["atlas_lm.index.build"]  # the package's name is the function
MACHINE = Machine(ram_bytes=10**10, disk_bytes=10**12, cores=1)
ONE = Throughput(
    embed_flops=1e9,
    train_flops=1e9,
    read_flops=1e9,
    decode_bytes=1e9,
    scan_bytes=1e9,
    update_bytes=1e9,
)


def by_name(asked, machine=MACHINE, speed=ONE) -> dict:
    return {stage.name: stage for stage in stages(asked, machine, speed)}


def test_state_of_training_is_exact():
    asked = request()
    step = RealStep(asked)
    step.losses()
    parameters = [p for half in (step.reader, step.encoder) for p in half.parameters()]
    held = state_bytes(asked)
    assert held["weights"] == sum(p.numel() * p.element_size() for p in parameters)
    gradients = [p.grad for p in parameters if p.grad is not None]
    assert held["gradients"] == sum(grad.numel() * grad.element_size() for grad in gradients)
    for half in step.optimizers:
        half.update(0)
    moments = [tensor for half in step.optimizers for tensor in half.tensors().values()]
    assert held["AdamW's moments"] == sum(m.numel() * m.element_size() for m in moments)


def test_adapters_alone_have_gradients_and_moments():
    whole = state_bytes(request())
    few = request(reader_trained=100, retriever_trained=50)
    held = state_bytes(few)
    assert held["gradients"] == 4 * 150
    assert held["AdamW's moments"] == 8 * 150
    assert held["weights"] == whole["weights"] + 4 * 150
    assert state_bytes(few.without_adapters) == whole
    one, other = (by_name(plan)["train step"] for plan in (few, request()))
    assert one.ram_bytes < other.ram_bytes
    assert one.parts["activations"] > 0


def test_each_half_can_recompute_by_itself():
    one = request(retriever=encoder(4))
    peaks = [
        training_cost(dataclasses.replace(one, **fields)).peak_bytes
        for fields in (
            {},
            {"gradient_checkpointing_retriever": True},
            {"gradient_checkpointing": True, "gradient_checkpointing_retriever": False},
            {"gradient_checkpointing": True},
        )
    ]
    assert peaks[1] < peaks[0]
    assert peaks[3] < peaks[2] < peaks[0]


def test_every_stage_is_there():
    names = ["build", "open", "search", "train step", "refresh", "generate"]
    assert list(by_name(request())) == names
    assert list(by_name(request(reader=None, objective="none"))) == names[:3]
    assert list(by_name(request(reader=None))) == names[:3]  # nothing is trained
    for fields in ({"query_side": True}, {"objective": "none"}, {"index": "int8"}):
        assert "refresh" not in by_name(request(**fields))


def test_a_refresh_holds_old_and_new_vectors_beside_what_training_holds():
    asked = request(passages=10**7)
    index = 10**7 * (4 * 64 + 68)
    held = state_bytes(asked)
    whole = by_name(asked)
    assert whole["refresh"].parts["index"] == 2 * index
    assert whole["refresh"].mapped_bytes == 0
    assert whole["refresh"].ram_bytes > 2 * index + held["weights"] + held["AdamW's moments"]
    assert whole["train step"].mapped_bytes == 0  # vectors that were replaced are no file's
    assert whole["train step"].ram_bytes > index
    tenth = by_name(dataclasses.replace(asked, refreshed=10**6))["refresh"]
    assert tenth.parts["index"] == pytest.approx(1.1 * index)
    assert tenth.seconds == pytest.approx(whole["refresh"].seconds / 10)
    never = by_name(dataclasses.replace(asked, refreshed=0))
    assert "refresh" not in never
    assert never["train step"].mapped_bytes == 10**7 * 68


def test_the_world_splits_rows():
    one, four = by_name(request(passages=10**6)), by_name(request(passages=10**6, world=4))
    for name in ("open", "search", "generate"):
        assert four[name].mapped_bytes == pytest.approx(one[name].mapped_bytes / 4)
    ratio = one["refresh"].seconds / four["refresh"].seconds
    assert ratio == pytest.approx(4, rel=0.01)
    assert four["build"].seconds == one["build"].seconds  # one process builds
    assert four["train step"].parts["gradient buckets of DDP"] > 0


def test_on_a_gpu_models_and_index_are_there():
    there = {"device": "cuda", "index_device": "cuda"}
    cpu, gpu = by_name(request(passages=10**6)), by_name(request(passages=10**6, **there))
    for name in ("search", "train step", "generate"):
        assert gpu[name].gpu_bytes >= cpu[name].mapped_bytes
        assert gpu[name].mapped_bytes == 0
        assert cpu[name].gpu_bytes == 0
        assert gpu[name].ram_bytes < cpu[name].ram_bytes
    coded = by_name(request(passages=10**6, world=4, index="ivfpq8", **there))
    alone = by_name(request(passages=10**6, index="ivfpq8", **there))
    assert coded["search"].mapped_bytes == alone["search"].mapped_bytes  # it cannot be cut
    assert coded["search"].gpu_bytes == 0  # faiss searches on the CPU


@pytest.mark.parametrize(("index", "width"), [("fp16", 2 * 64), ("fp32", 4 * 64), ("int8", 68)])
def test_a_gpu_holds_vectors_of_a_flat_index_and_codes_of_int8(index, width):
    asked = request(passages=10**6, index=index, index_device="cuda")
    search = by_name(asked)["search"]
    assert search.gpu_bytes == 10**6 * width
    assert search.seconds == pytest.approx(10**6 * width / 1e9)
    models_alone = by_name(dataclasses.replace(asked, device="cuda", index_device="cpu"))
    assert models_alone["search"].gpu_bytes == 0
    assert models_alone["search"].mapped_bytes == 10**6 * 68  # codes are read first


@pytest.mark.parametrize("kind", ["flat", "int8", "binary", "binary with vectors"])
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_disk_of_a_build_at_its_most_is_what_one_takes(tmp_path, monkeypatch, kind, dtype):
    """Vectors in the unfinished build, codes in unnamed files, then codes in the index."""
    rooms, most = [], []
    room, finish = kinds.mapped_room, building.finish

    def counted(*given):
        made = room(*given)
        rooms.append(made.numel() * made.element_size())
        return made

    def measured(*given, **named):
        places = [tmp_path / "index", tmp_path / "index.partial"]
        files = [one.stat() for place in places for one in place.iterdir()]
        sizes = {one.st_ino: one.st_size for one in files if one.st_size > 1000}
        most.append(sum(sizes.values()) + sum(rooms))
        return finish(*given, **named)

    monkeypatch.setattr(kinds, "mapped_room", counted)
    monkeypatch.setattr(building, "finish", measured)
    texts = {f"p{row}": f"text {row}" for row in range(2000)}
    settings = IndexSettings(
        kind=kind.split()[0],
        dtype={"fp32": "float32", "fp16": "float16"}[dtype],
        keep_vectors=" " in kind,
        recall_queries=0,
    )
    built(tmp_path / "index", [write(tmp_path / "corpus.jsonl", texts)], settings=settings)
    asked = request(
        passages=2000, dim=DIM, index=kind.split()[0], dtype=dtype, keep_vectors=" " in kind
    )
    planned = by_name(dataclasses.replace(asked, retriever=encoder(1), reader=None))["build"]
    assert planned.disk_bytes == pytest.approx(most[0], rel=0.01)


def test_accumulation_takes_time_and_keeps_gradients():
    one, two = (
        by_name(request())["train step"],
        by_name(request(accumulation_steps=2))["train step"],
    )
    assert two.seconds > 1.5 * one.seconds
    assert two.ram_bytes > one.ram_bytes


def test_assumed_rates_say_so():
    cpu, gpu = assumed(request(), MACHINE), assumed(request(device="cuda"), MACHINE)
    assert cpu.source == gpu.source == "assumed"
    assert gpu.train_flops > cpu.train_flops
    named = assumed(
        request(device="cuda", precision="bf16"), Machine(ram_bytes=1, gpu_name="NVIDIA H100")
    )
    assert named.train_flops > gpu.train_flops
