"""How fast a machine works: stated defaults, or a few seconds of measuring on this one.

What is measured is what is planned, made smaller: the same widths and lengths with fewer layers
and passages, so that a rate holds for the whole.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import DynamicCache, EncoderDecoderCache, GenerationConfig
from transformers.modeling_outputs import BaseModelOutput

from atlas_lm.index import Fingerprint, FlatIndex, Index, IndexSettings
from atlas_lm.index.binary import BinaryIndex, encode_signs
from atlas_lm.index.coded import Facts
from atlas_lm.index.int8 import Int8Index
from atlas_lm.index.size import index_size
from atlas_lm.index.vectors import encode_int8
from atlas_lm.planning import work
from atlas_lm.planning.counting import counted
from atlas_lm.planning.machine import Machine
from atlas_lm.planning.models import PlannedModel
from atlas_lm.planning.request import PlanRequest

TRIAL_FLOPS = 4e10
"""Multiplications of one trial: about a second of a CPU core."""
TRIALS = 3
CPU_CORE = 3.5e10
"""Assumed multiplications and additions a second of a CPU core in fp32 (AVX2)."""
GPUS = {"H200": 4.0e14, "H100": 4.0e14, "A100": 1.4e14, "L40": 9e13, "A10": 5e13, "T4": 2.5e13}
"""Assumed in bf16 of GPUs by name: about 40% of what their makers state."""
GPU = 1e14
"""The same of any other."""
SINGLE = 6
"""How many times slower fp32 is there."""


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """Rates from which times follow."""

    embed_flops: float
    """Multiplications and additions a second while embedding."""
    train_flops: float
    """The same forward and backward."""
    read_flops: float
    """The same while the reader reads passages without gradient."""
    decode_bytes: float
    """Bytes of weights, keys and values read a second while writing an answer."""
    scan_bytes: float
    """Bytes of an index read a second in a search."""
    update_bytes: float
    """Bytes a second of parameters and moments in an optimizer step."""
    tokenize_tokens: float = 4e5
    """Tokens made a second."""
    disk_bytes: float = 5e8
    """Bytes written or read a second."""
    source: Literal["measured", "assumed"] = "assumed"
    """Where these come from."""


def assumed(request: PlanRequest, machine: Machine) -> Throughput:
    """Return the stated defaults for a machine: orders of magnitude, for a first look."""
    if request.device == "cpu":
        flops = CPU_CORE * machine.cores / request.ranks_of_machine
        memory = 1e10
    else:
        flops = next((rate for name, rate in GPUS.items() if name in machine.gpu_name), GPU)
        flops /= 1 if request.precision == "bf16" else SINGLE
        memory = 1e12
    return Throughput(
        embed_flops=flops,
        train_flops=flops,
        read_flops=flops,
        decode_bytes=memory / 2,
        scan_bytes=1e10 if request.index_device == "cpu" else 1e12,
        update_bytes=memory,
    )


def measured(request: PlanRequest, *, directory: Path | None = None) -> Throughput:
    """Return rates of this machine for what is planned, from some seconds of each kind of work.

    On the CPU only; what needs a reader is left at its default where none is planned.
    """
    small = dataclasses.replace(request, device="cpu", precision="fp32")
    rates = {
        "embed_flops": _embedding_rate(small),
        "scan_bytes": _scan_rate(small),
        "update_bytes": _update_rate(),
        "disk_bytes": _disk_rate(directory),
    }
    if request.reader is not None:
        rates["train_flops"] = _training_rate(small)
        rates["read_flops"], rates["decode_bytes"] = _writing_rates(small, request.reader)
    default = assumed(small, Machine(ram_bytes=0, cores=torch.get_num_threads()))
    return dataclasses.replace(default, source="measured", **rates)


def _seconds(do: Callable[[], Any]) -> float:
    """Return the median time of some runs after a first one."""
    do()
    times = []
    for _ in range(TRIALS):
        began = time.perf_counter()
        do()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def _embedding_rate(request: PlanRequest) -> float:
    model = request.retriever
    cost, batch = work.embedding_cost(request)
    layers = _affordable(model.layers, cost.flops)
    module = model.with_layers(layers).built("cpu").eval()

    def embed() -> None:
        with torch.no_grad():
            work.embedded(module, batch, request.embedded_tokens)

    return counted(embed, module).flops / _seconds(embed)


def _training_rate(request: PlanRequest) -> float:
    assert request.reader is not None
    small = _fewer_passages(dataclasses.replace(request, bsz=1))
    frozen = request.objective == "none"
    stacks = (*request.reader.layers, *(() if frozen else request.retriever.layers))
    halves = work.training_halves(small, _affordable(stacks, work.training_cost(small).flops))

    def train() -> None:
        halves.zero_grad(set_to_none=True)
        work.micro_batch(halves, small)

    return counted(train, halves).flops / _seconds(train)


def _writing_rates(request: PlanRequest, reader: PlannedModel) -> tuple[float, float]:
    """Return the rates of reading passages and of writing tokens."""
    small = _fewer_passages(dataclasses.replace(request, bsz=1))
    layers = _affordable(reader.layers, work.generation_cost(small).flops)
    shallow = dataclasses.replace(small, reader=reader.with_layers(layers))
    module: Any = reader.with_layers(layers).built("cpu").eval()
    assert shallow.reader is not None
    planned = shallow.reader

    def read() -> Any:
        with torch.no_grad():
            return work.read(module, shallow, planned)

    tokens = request.target_tokens
    reading = _seconds(read)
    flops = counted(read, module).flops
    few, many = (_seconds(_writer(module, shallow, planned, n)) for n in (1, 1 + tokens))
    per_token = work.decoder_bytes(shallow) + work.memory_bytes(shallow)
    return flops / reading, per_token * tokens / max(many - few, 1e-6)


def _writer(
    module: Any, request: PlanRequest, reader: PlannedModel, tokens: int
) -> Callable[[], Any]:
    """Return what writes so many tokens by the stock `generate`, passages read before."""
    config = GenerationConfig(
        do_sample=False,
        num_beams=request.num_beams,
        min_new_tokens=tokens,
        max_new_tokens=tokens,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )
    length = request.n_context * request.passage_tokens
    inputs: dict[str, Any] = {"input_ids": torch.ones((1, length), dtype=torch.int64)}
    if reader.is_fid:
        states = torch.zeros((1, length, module.config.d_model))
        inputs = {"encoder_outputs": BaseModelOutput(last_hidden_state=states)}
    inputs["attention_mask"] = torch.ones((1, length), dtype=torch.int64)

    def write() -> None:
        # A cache of the library's own making has as many layers as the encoder.
        cache = {"past_key_values": EncoderDecoderCache(DynamicCache(), DynamicCache())}
        with torch.no_grad():
            module.generate(**inputs, **(cache if reader.is_fid else {}), generation_config=config)

    return write


def _scan_rate(request: PlanRequest) -> float:
    """Return bytes read a second by a search of the planned kind, over rows that take a moment.

    The rate of a flat index stands in for faiss' and Milvus'.
    """
    rows = min(request.rows_of_rank, 2**26 // request.dim)
    planned = request.index.strip().lower()
    kind = planned if planned in ("int8", "binary") else "flat"
    size = index_size(kind, rows=rows, dim=request.dim, keep_vectors=request.keep_vectors)
    index = _made_up_index(kind, rows, request)
    query = torch.randn(request.bsz * request.world, request.dim)
    topk = min(request.topk, rows)
    return size.hot_bytes / _seconds(lambda: index.search(query, topk))


def _made_up_index(kind: str, rows: int, request: PlanRequest) -> Index:
    """Return an index of random vectors in memory; codes are packed, as they are after a while."""
    vectors = torch.randn(rows, request.dim)
    fingerprint = Fingerprint(
        encoder="", template="", pooling="", similarity="", max_length=1, dim=request.dim, corpus=""
    )
    if kind == "flat":
        flat = FlatIndex(vectors, fingerprint=fingerprint)
        flat.add_codes_()
        flat.pack_()
        return flat
    settings = IndexSettings(kind=kind, keep_vectors=request.keep_vectors)  # type: ignore[arg-type]
    facts = Facts(count=rows, settings=settings, fingerprint=fingerprint)
    kept = vectors if request.keep_vectors else None
    if kind == "int8":
        coded = Int8Index(facts, encode_int8(vectors), kept)
        coded.pack_()
        return coded
    codes = None if request.keep_vectors else encode_int8(vectors)
    return BinaryIndex(facts, encode_signs(vectors), codes, kept)


def _update_rate() -> float:
    """Return bytes a second of AdamW over parameters, gradients and moments."""
    parameter = torch.nn.Parameter(torch.zeros(2**22))
    parameter.grad = torch.ones_like(parameter)
    adamw = torch.optim.AdamW([parameter])
    return 16 * parameter.numel() / _seconds(adamw.step)


def _disk_rate(directory: Path | None) -> float:
    data = os.urandom(2**25)
    with tempfile.NamedTemporaryFile(dir=directory) as file:

        def write() -> None:
            file.seek(0)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

        return len(data) / _seconds(write)


def _fewer_passages(request: PlanRequest) -> PlanRequest:
    """Return the request with so few passages that two layers of it are a trial."""
    assert request.reader is not None
    layers = tuple(min(2, one) for one in request.reader.layers)
    retriever = request.retriever.with_layers(
        tuple(min(2, one) for one in request.retriever.layers)
    )
    shallow = dataclasses.replace(
        request, reader=request.reader.with_layers(layers), retriever=retriever
    )
    fraction = TRIAL_FLOPS / max(work.training_cost(shallow).flops, 1)
    passages = max(min(request.n_context, int(request.n_context * fraction)), 1)
    return dataclasses.replace(request, n_context=passages)


def _affordable(layers: tuple[int, ...], flops: float) -> tuple[int, ...]:
    """Return depths of which a run stays near `TRIAL_FLOPS`: at least two, at most all."""
    fraction = min(TRIAL_FLOPS / max(flops, 1.0), 1.0)
    return tuple(min(one, max(int(one * fraction), 2)) for one in layers)
