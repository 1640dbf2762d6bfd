"""What each stage takes of memory, disk and time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from atlas_lm.index.build import PASSAGES_AT_A_TIME
from atlas_lm.index.codes import PACKED_SHARE, packed_bytes
from atlas_lm.index.size import ROW_OF_STORE, WIDTH, IndexSize
from atlas_lm.planning import work
from atlas_lm.planning.counting import parameter_bytes
from atlas_lm.planning.machine import Machine
from atlas_lm.planning.models import PlannedModel
from atlas_lm.planning.placing import bytes_on_gpu, scan_seconds, share_of, size_of
from atlas_lm.planning.request import PlanRequest
from atlas_lm.planning.throughput import Throughput

StageName = Literal["build", "open", "search", "train step", "refresh", "generate"]
PROCESS_BYTES = 450_000_000
"""Memory of a process that has imported torch and transformers."""
ALLOCATOR_SLACK = 0.25
"""Share of a training step's tensors by which a process outgrows them on CPU: freed blocks that the
C library keeps. Measured: 0.2 to 0.33."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage. Bytes and seconds are of the busiest process unless said otherwise."""

    name: StageName
    """Which."""
    ram_bytes: float
    """Memory of one process that cannot be let go."""
    mapped_bytes: float = 0.0
    """Mapped files that are read all the time: all of a process's should stay in memory."""
    gpu_bytes: float = 0.0
    """Memory of one GPU."""
    disk_bytes: float = 0.0
    """Disk of all processes together, at its most."""
    seconds: float = 0.0
    """Time."""
    per: str = "in all"
    """What the time is for."""
    parallel: bool = True
    """Whether all processes do it; else one alone."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """Where the memory goes, in bytes."""


def stages(request: PlanRequest, machine: Machine, speed: Throughput) -> list[Stage]:
    """Return every stage in order; those of training only where a reader is planned."""
    whole = size_of(request, request.passages)
    share = share_of(request)
    found = [
        _build(request, whole, speed),
        _open(request, share, speed),
        _search(request, share, machine, speed),
    ]
    if request.reader is not None:
        found.append(_train(request, share, speed))
    if request.refreshed_share and whole.exact:
        found.append(_refresh(request, share, speed))
    if request.reader is not None:
        found.append(_generate(request, share, speed))
    return found


def weights_bytes(model: PlannedModel) -> int:
    """Return the bytes of a model's weights in float32."""
    return parameter_bytes(model.built())


def _build(request: PlanRequest, size: IndexSize, speed: Throughput) -> Stage:
    cost, batch = work.embedding_cost(request)
    weights = weights_bytes(request.retriever)
    rows = request.passages
    full = rows * request.dim * WIDTH[size.kind if size.exact else request.dtype]
    seconds = (
        rows * cost.flops / batch / speed.embed_flops
        + rows * request.embedded_tokens / speed.tokenize_tokens
        + (full + size.disk_bytes) / speed.disk_bytes
    )
    linked = size.exact or request.keep_vectors  # the vectors stay where they were written
    made = size.hot_bytes + (0 if linked else size.cold_bytes)
    copies = 2 if size.exact or size.kind in ("int8", "binary") else 1  # codes are made in a file
    held = PASSAGES_AT_A_TIME * (4 * request.dim + 3 * request.passage_bytes)
    model = {"retriever": float(weights), "activations": cost.peak_bytes}
    own = {"batch": float(held), "faiss training sample": float(size.training_bytes)}
    if size.training_bytes:
        own["faiss index"] = float(size.hot_bytes)
    return _placed(
        request,
        name="build",
        model=model,
        own=own,
        disk_bytes=full + copies * made,
        seconds=seconds,
        per=f"in all, {rows / seconds:,.0f} passages/s in one process",
        parallel=False,
    )


def _open(request: PlanRequest, share: IndexSize, speed: Throughput) -> Stage:
    return _placed(
        request,
        name="open",
        index=share,
        own={"passage ids and offsets, mapped as needed": 0.0},
        disk_bytes=size_of(request, request.passages).disk_bytes
        + request.passages * (ROW_OF_STORE + request.passage_bytes),
        seconds=share.hot_bytes / speed.disk_bytes,
        per="until all of it is in memory; mapped files open at once",
    )


def _search(request: PlanRequest, share: IndexSize, machine: Machine, speed: Throughput) -> Stage:
    queries = request.bsz * request.world
    own = {"scores and candidates": float(queries * request.topk * 64)}
    packed = packed_bytes(share.rows, request.dim)
    first_pass = share.exact or share.kind == "int8"
    if request.index_device == "cpu" and first_pass and packed <= machine.ram_bytes / PACKED_SHARE:
        own["codes packed for small batches"] = float(packed)
    if share.cold_bytes:
        own["rescored rows, read from disk"] = 0.0
    return _placed(
        request,
        name="search",
        index=share,
        own=own,
        seconds=scan_seconds(request, share, speed),
        per=f"per batch of {queries} queries, top {request.topk}",
    )


def _train(request: PlanRequest, share: IndexSize, speed: Throughput) -> Stage:
    assert request.reader is not None
    cost = work.training_cost(request)
    held = state_bytes(request)
    activations = cost.peak_bytes
    unmade = state_bytes(request.without_adapters)["gradients"] - held["gradients"]
    if unmade:  # what adapters spare; the activations stay
        forward = work.training_cost(request, backward=False).peak_bytes
        activations = max(activations - unmade, forward)
    if request.accumulation_steps == 1:  # gradients come as activations go
        activations = max(activations - held["gradients"], 0.0)
    model: dict[str, float] = {**held, "activations": activations}
    if request.device == "cuda":
        model["optimizer's temporaries"] = max(held["gradients"] - activations, 0.0)
    trained = held["gradients"]
    seconds = (
        request.accumulation_steps * cost.flops / speed.train_flops
        + 4 * trained / speed.update_bytes
        + request.accumulation_steps * scan_seconds(request, share, speed)
    )
    queries = request.bsz * request.accumulation_steps * request.world
    passages = request.bsz * request.accumulation_steps * request.n_context
    checkpoint = sum(held.values()) - held["gradients"] - held["gradient buckets of DDP"]
    return _placed(
        request,
        name="train step",
        model=model,
        index=share,
        copies=1.0 if request.refreshed_share and share.exact else 0.0,
        own={"text": float(passages * request.passage_bytes * 4)},
        disk_bytes=3 * checkpoint,
        seconds=seconds,
        per=f"per step of {queries} queries",
    )


def state_bytes(request: PlanRequest) -> dict[str, float]:
    """Return what training holds all the time: exact but for tokenizers and the like.

    Of adapters the counts of AdamW's steps, 4 bytes a tensor, are left out.
    """
    reader = request.reader
    assert reader is not None
    learns = request.objective != "none"
    halves = [(reader, 1, request.reader_trained)]
    if learns or request.n_context:
        towers = 2 if request.query_side else 1
        halves.append((request.retriever, towers, request.retriever_trained if learns else 0))
    weights = trained = tensors = 0
    for half, towers, adapters in halves:
        sizes = [one.numel() for one in half.built().parameters()]
        weights += towers * sum(sizes) + (adapters or 0)
        trained += sum(sizes) if adapters is None else adapters
        tensors += len(sizes) if adapters is None else 0
    return {
        "weights": 4.0 * weights,
        "gradients": 4.0 * trained,
        "AdamW's moments": 8.0 * trained + 4 * tensors,
        "gradient buckets of DDP": 4.0 * trained if request.world > 1 else 0.0,
    }


def _refresh(request: PlanRequest, share: IndexSize, speed: Throughput) -> Stage:
    """Return a refresh in a process that trains, and has refreshed before.

    Vectors that were replaced once are no file's any more: old and new ones are there together.
    """
    cost, batch = work.embedding_cost(request)
    part = request.refreshed_share
    rows = part * request.rows_of_rank
    seconds = (
        rows * cost.flops / batch / speed.embed_flops
        + rows * request.embedded_tokens / speed.tokenize_tokens
    )
    held = state_bytes(request)
    del held["gradients"]  # dropped after every step
    fresh = part * bytes_on_gpu(request, share)
    return _placed(
        request,
        name="refresh",
        model={**held, "activations": cost.peak_bytes},
        index=share,
        copies=1 + part,
        own={"fresh vectors on their way to a GPU": fresh},
        seconds=seconds,
        per="in all, every process its share",
    )


def _generate(request: PlanRequest, share: IndexSize, speed: Throughput) -> Stage:
    reader = request.reader
    assert reader is not None
    cost = work.generation_cost(request)
    memory = float(work.memory_bytes(request))
    per_token = work.decoder_bytes(request) + memory
    seconds = (
        cost.flops / speed.read_flops
        + request.target_tokens * per_token / speed.decode_bytes
        + scan_seconds(request, share, speed)
    )
    model = {
        "weights": float(weights_bytes(reader) + weights_bytes(request.retriever)),
        "activations": max(cost.peak_bytes, memory) - memory,
        "keys and values": memory,
    }
    return _placed(
        request,
        name="generate",
        model=model,
        index=share,
        seconds=seconds,
        per=f"per batch of {request.bsz} questions, {request.target_tokens} tokens each",
    )


def _placed(
    request: PlanRequest,
    *,
    name: StageName,
    per: str,
    seconds: float,
    model: Mapping[str, float] | None = None,
    index: IndexSize | None = None,
    copies: float = 0.0,
    own: Mapping[str, float] | None = None,
    disk_bytes: float = 0.0,
    parallel: bool = True,
) -> Stage:
    """Return a stage with the models, and an index that can live there, on the planned devices.

    With ``copies`` the index is no file's: the process holds it so many times, codes and vectors.
    """
    models, owns = dict(model or {}), dict(own or {})
    on_gpu = request.device == "cuda"
    if name == "train step" and not on_gpu:
        owns["allocator"] = ALLOCATOR_SLACK * sum(models.values())
    held = read = mapped = 0.0
    if index is not None:
        held = bytes_on_gpu(request, index) * (copies or 1.0)
        read = 0.0 if held else copies * index.disk_bytes or float(index.hot_bytes)
        mapped = read if index.mapped and not copies else 0.0
    ram = PROCESS_BYTES + sum(owns.values()) + (0.0 if on_gpu else sum(models.values()))
    ram += read - mapped
    gpu = held + (sum(models.values()) if on_gpu else 0.0)
    parts = {"process": float(PROCESS_BYTES), **models, **owns}
    parts["index"] = held or read
    return Stage(
        name=name,
        ram_bytes=ram,
        mapped_bytes=mapped,
        gpu_bytes=gpu,
        disk_bytes=disk_bytes,
        seconds=seconds,
        per=per,
        parallel=parallel,
        parts={part: size for part, size in parts.items() if size},
    )
