"""Will this run fit? Asked once, when the models are open and nothing has started."""

from __future__ import annotations

import socket
import warnings
from pathlib import Path
from typing import Any, cast

import torch

from atlas_lm.config import HalfConfig, RunConfig
from atlas_lm.index import read_manifest
from atlas_lm.model import Atlas
from atlas_lm.passages.store import PassageStore
from atlas_lm.planning import (
    Machine,
    PlannedModel,
    PlanRequest,
    Shortage,
    assumed,
    stages,
    this_machine,
)
from atlas_lm.planning.advice import shortages
from atlas_lm.runtime import distributed
from atlas_lm.runtime.dtypes import SHORT
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.logs import notice, warn
from atlas_lm.training import TrainingConfig
from atlas_lm.training.memory import ADVICE, helpful

PLAINLY_FITS = 0.4
"""Share of the memory below which a generous guess settles it and nothing is counted."""
OF_TRAINING = ("open", "train step", "refresh")
QUERY_TOKENS = 24
PASSAGE_TOKENS = 160
"""Tokens of a passage with its query that a plan assumes where the reader's limit is higher."""


def refuse_what_cannot_fit(
    atlas: Atlas,
    config: RunConfig,
    out: Path,
    *,
    force: bool = False,
    machine: Machine | None = None,
) -> PlanRequest | None:
    """Plan the run and refuse it where a stage needs more memory or disk than there is.

    A run that fits by a generous guess is not planned: counting takes some seconds. Nor is one of
    sharded models, which is said. The room for checkpoints is looked at in any case.

    Returns:
        What was planned, where a plan was made.

    Raises:
        InputError: it cannot fit and ``force`` is false; the message says what is short, by how
            much, and what to change.
    """
    machine = machine or this_machine(out)
    _look_at_disk(atlas, config.training, out, machine.disk_bytes, force=force)
    if distributed.world().size > 1 and config.training.parallel == "fsdp":
        notice('training.parallel="fsdp": whether the memory suffices is not planned')
        return None
    machines = len(set(distributed.gather_json(socket.gethostname())))
    device = atlas.reader.device
    memory = machine.gpu_bytes if device.type == "cuda" else machine.ram_bytes
    try:
        if not memory or _guess(atlas, config, machines=machines) < PLAINLY_FITS * memory:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the library's, about models that never run
            request = plan_request(atlas, config, device, machines=machines)
            found = tuple(stages(request, machine, assumed(request, machine)))
    except Exception as error:  # a model that cannot be counted may well be trained
        warn(f"whether this run fits could not be found out ({error}); it starts all the same")
        return None
    short = [one for one in shortages(request, machine, found) if one.stage in OF_TRAINING]
    if not short:
        return request
    said = "; ".join(map(_said, short))
    if force:
        warn(f"{said}; going on all the same (--force)")
        return request
    phase = "refresh" if short[0].stage == "refresh" else "encode"
    advice = helpful(phase, config.training, atlas)
    settings = "\n".join(f"  {setting}" for setting in advice[:ADVICE])
    raise InputError(
        f"this run will not fit: {said}. What would help most, first things first:\n{settings}\n"
        "atlas-lm plan shows every stage; --force starts the run all the same"
    )


def _look_at_disk(
    atlas: Atlas, training: TrainingConfig, out: Path, free: int, *, force: bool
) -> None:
    """Refuse a run whose checkpoints the disk cannot hold, the one being written among them."""
    modules = [module for module in (atlas.reader, atlas.retriever) if module is not None]
    one = sum(4 * _weights(module) + 8 * _trained(module) for module in modules)
    saves = training.total_steps // training.save_every if training.save_every else 0
    needed = one * (min(saves, training.keep_last) + 1)
    found = (out / "checkpoints").rglob("*.safetensors")
    there = free + sum(file.stat().st_size for file in found)
    if needed <= there:
        return
    said = (
        f"this run will not fit: checkpoints need {needed / 1e9:,.1f} GB of disk "
        f"({one / 1e9:,.1f} GB each), there is {there / 1e9:,.1f} GB at {out}"
    )
    if not force:
        raise InputError(
            f"{said}. Free some space, lower training.keep_last, or choose another --out; --force "
            "starts the run all the same"
        )
    warn(f"{said}; going on all the same (--force)")


def plan_request(
    atlas: Atlas, config: RunConfig, device: torch.device, *, machines: int = 1
) -> PlanRequest:
    """Return the request of a plan for a recipe whose models are open, on so many machines."""
    context, training = config.context, config.training
    world = distributed.world().size
    bsz, accumulation_steps = _of_process(training, world)
    retriever = _planned(atlas.retriever.passage_encoder, "retriever") if atlas.retriever else None
    reader = _planned(_network(atlas.reader), "reader")
    frozen = training.freeze_retriever_steps >= training.total_steps
    return PlanRequest(
        passages=max(_passages(config), 1),
        dim=retriever.dim if retriever else 1,
        index=_index_kind(config),
        retriever=retriever or _planned(_network(atlas.reader), "retriever"),
        reader=reader,
        world=world,
        machines=machines,
        device="cuda" if device.type == "cuda" else "cpu",
        n_context=max(context.n_context, 1),
        n_rerank=context.n_rerank,
        topk=context.retriever_n_context,
        bsz=bsz,
        accumulation_steps=accumulation_steps,
        query_tokens=min(QUERY_TOKENS, (retriever and retriever.longest) or QUERY_TOKENS),
        passage_tokens=min(_passage_limit(atlas), PASSAGE_TOKENS),
        objective=cast(Any, "none" if frozen or retriever is None else config.objective.name),
        query_side=config.staleness.query_side,
        refreshed=_refreshed(config),
        precision=training.precision,
        gradient_checkpointing=training.gradient_checkpointing_reader,
        gradient_checkpointing_retriever=training.gradient_checkpointing_retriever,
        reader_trained=_adapters(atlas.reader, config.reader),
        retriever_trained=_adapters(atlas.retriever, config.retriever),
    )


def _refreshed(config: RunConfig) -> int | None:
    """Return the passages that a refresh embeds; all if None, 0 where none is scheduled."""
    if not config.staleness.refreshes:
        return 0
    return config.staleness.partial.budget if config.staleness.refresh == "partial" else None


def _of_process(training: TrainingConfig, world: int) -> tuple[int, int]:
    """Return micro-batch and micro-batches of the busiest of ``world`` processes; see `parts`."""
    queries = -(-training.queries_per_update // world)
    bsz = min(training.bsz, queries)
    return bsz, -(-queries // bsz)


def _adapters(module: Any, half: HalfConfig) -> int | None:
    """Return the parameters that are trained where these are adapters; else None."""
    return _trained(module) if half.lora.rank and module is not None else None


def _guess(atlas: Atlas, config: RunConfig, *, machines: int = 1) -> float:
    """Return a guess of the bytes that a step needs, on the high side: on a GPU, or a machine."""
    world = distributed.world().size
    ranks = 1 if atlas.reader.device.type == "cuda" else -(-world // machines)
    context, bsz = config.context, _of_process(config.training, world)[0]
    network = _network(atlas.reader)
    tokens = bsz * max(context.n_context, 1) * (_passage_limit(atlas) + QUERY_TOKENS)
    bytes_of = _activations(network.config, tokens) + _state(network)
    bytes_of += 32.0 * bsz * context.n_context * 64 * int(network.config.vocab_size)
    if atlas.retriever is not None:
        encoder = atlas.retriever.passage_encoder
        tokens = bsz * context.retriever_n_context * atlas.retriever.settings.passage_maxlength
        bytes_of += _activations(encoder.config, tokens) + _state(atlas.retriever)
    return ranks * bytes_of + 4.0 * 1024 * _passages(config)


def _activations(described: Any, tokens: int) -> float:
    """Return the bytes of a backward pass over so many tokens of passages of some 200."""
    layers = int(described.num_hidden_layers) * (2 if described.is_encoder_decoder else 1)
    wide = 40.0 * int(described.hidden_size) + 600.0 * int(described.num_attention_heads)
    return 4.0 * tokens * layers * wide


def _state(module: Any) -> float:
    """Return the bytes of weights, gradients, moments and the buckets of several processes."""
    return float(4 * _weights(module) + 16 * _trained(module))


def _weights(module: Any) -> int:
    return sum(one.numel() for one in module.parameters())


def _trained(module: Any) -> int:
    return sum(one.numel() for one in module.parameters() if one.requires_grad)


def _passage_limit(atlas: Atlas) -> int:
    """Return the most tokens of a passage that the reader reads."""
    settings = atlas.reader.settings
    limits = (getattr(settings, name, None) for name in ("text_maxlength", "passage_maxlength"))
    return next((int(limit) for limit in limits if limit), PASSAGE_TOKENS)


def _network(reader: Any) -> Any:
    """Return the transformers model inside a reader."""
    return reader.model


def _planned(network: Any, role: Any) -> PlannedModel:
    return PlannedModel(name=str(network.config.name_or_path), config=network.config, role=role)


def _passages(config: RunConfig) -> int:
    if config.context.passages_from != "index":
        return 0
    if config.data.index:
        return read_manifest(Path(config.data.index)).rows
    if not config.data.passages:
        return 0
    store = PassageStore.open([Path(path) for path in config.data.passages])
    count = len(store)
    store.close()
    return count


def _index_kind(config: RunConfig) -> str:
    if not config.data.index:
        return "fp16"
    manifest = read_manifest(Path(config.data.index))
    if manifest.kind == "faiss":
        return str(manifest.settings["factory"])
    coded = manifest.kind in ("int8", "binary")
    return manifest.kind if coded else SHORT.get(manifest.dtype, "fp16")


def _said(short: Shortage) -> str:
    return (
        f"the stage {short.stage!r} needs {short.needed_bytes / 1e9:,.1f} GB of {short.what}, "
        f"there is {short.there_bytes / 1e9:,.1f} GB"
    )
