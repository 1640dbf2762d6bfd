"""``atlas-lm plan``: memory, disk and time of every stage before anything starts."""

from __future__ import annotations

import argparse
import dataclasses
import warnings
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from atlas_lm.cli.common import add_json_argument, print_json
from atlas_lm.planning import (
    Machine,
    Plan,
    PlannedModel,
    PlanRequest,
    assumed,
    known_names,
    make_plan,
    measured,
    parse_count,
    planned_model,
    this_machine,
)
from atlas_lm.planning.placing import share_of, size_of
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.logs import notice
from atlas_lm.runtime.memory import parse_bytes

HELP = (
    "Predict memory, disk and time of every stage (build, open, search, train, refresh, generate) "
    "before\nanything starts, and say what fits and what to change."
)
EXAMPLE = (
    "atlas-lm plan --passages 37M --dim 768 --world 4 --index ivfpq64 --query-side "
    "--reader t5-3b --n-context 40\n  atlas-lm plan --passages 250000 --retriever minilm "
    "--reader smollm2-135m --measure"
)
BY_DIM = {768: "contriever", 384: "minilm", 256: "contriever-nano", 1024: "bert-large"}
"""The retriever that is meant where only the dim is given."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what is planned, the machine, and how to be told."""
    _add_corpus(parser.add_argument_group("corpus and index"))
    _add_models(parser.add_argument_group("models"))
    _add_machine(parser.add_argument_group("machine (default: this one)"))
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Plan."""
    machine = _machine(args)
    request = _request(args, machine)
    if args.measure:
        if "cuda" in (request.device, request.index_device):
            raise InputError(
                "--measure times this machine's CPU; give --device cpu and leave out "
                "--index-device cuda"
            )
        notice("measuring this machine for some seconds...")
        speed = measured(request, directory=Path(args.out) if args.out else None)
    else:
        speed = assumed(request, machine)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library's, about models that never run
        plan = make_plan(request, machine, speed)
    if args.json:
        print_json(described(plan))
    else:
        _show(plan)
    return 0


def described(plan: Plan) -> dict[str, Any]:
    """Return a plan as one JSON object; bytes and seconds as plain numbers."""
    request = {
        field.name: _plain(getattr(plan.request, field.name))
        for field in dataclasses.fields(plan.request)
    }
    size = size_of(plan.request, plan.request.passages)
    share = share_of(plan.request)
    return {
        "request": request,
        "machine": dataclasses.asdict(plan.machine),
        "throughput": dataclasses.asdict(plan.speed),
        "index": {
            **dataclasses.asdict(size),
            "disk_bytes": size.disk_bytes,
            "bytes_per_vector": size.bytes_per_vector,
            "rows_per_process": plan.request.rows_of_rank,
            "hot_bytes_per_process": share.hot_bytes,
        },
        "stages": [dataclasses.asdict(stage) for stage in plan.stages],
        "fits": plan.fits,
        "refused": plan.refused,
        "shortages": [dataclasses.asdict(one) for one in plan.shortages],
        "changes": [dataclasses.asdict(one) for one in plan.changes],
    }


def _add_corpus(group: Any) -> None:
    group.add_argument(
        "--passages", required=True, metavar="N", help="how many, such as 37M or 250000"
    )
    group.add_argument("--dim", type=int, metavar="N", help="default: the retriever's")
    group.add_argument(
        "--index",
        default="flat",
        metavar="KIND",
        help="flat (or fp32, fp16, bf16: flat of that dtype), int8, binary, milvus, or a faiss "
        "factory string such as IVF65536,PQ64 or ivfpq64 (default: flat)",
    )
    group.add_argument(
        "--dtype",
        choices=["fp32", "fp16", "bf16"],
        default="fp32",
        help="of full-precision vectors (default: fp32, as index build)",
    )
    group.add_argument("--keep-vectors", action="store_true", help="full precision beside codes")
    group.add_argument("--passage-bytes", type=int, default=614, metavar="N", help="on average")
    group.add_argument("--passage-tokens", type=int, default=160, metavar="N", help="on average")
    group.add_argument(
        "--out", metavar="DIR", help="where the index will be; its disk is looked at"
    )


def _add_models(group: Any) -> None:
    group.add_argument(
        "--retriever",
        metavar="NAME",
        help=f"a directory, config.json or one of {', '.join(known_names('retriever'))}",
    )
    group.add_argument(
        "--reader",
        metavar="NAME",
        help="a directory, config.json or a known size: t5-small to t5-11b, t5-v1.1-*, "
        "t5-lm-adapt-*, flan-t5-*, smollm2-135m to 1.7b; none: retrieval alone",
    )
    group.add_argument("--n-context", type=int, default=5, metavar="N")
    group.add_argument("--n-rerank", type=int, default=0, metavar="N")
    group.add_argument("--topk", type=int, default=100, metavar="N")
    group.add_argument("--bsz", type=int, default=1, metavar="N", help="per process")
    group.add_argument("--accumulation-steps", type=int, default=1, metavar="N")
    group.add_argument("--query-tokens", type=int, default=24, metavar="N")
    group.add_argument("--target-tokens", type=int, default=16, metavar="N")
    group.add_argument(
        "--objective", choices=["pdist", "emdr2", "loop", "adist", "none"], default="pdist"
    )
    group.add_argument("--query-side", action="store_true", help="train the query encoder alone")
    group.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    group.add_argument("--gradient-checkpointing", action="store_true")
    group.add_argument("--num-beams", type=int, default=1, metavar="N")


def _add_machine(group: Any) -> None:
    group.add_argument("--world", type=int, default=1, metavar="N", help="processes in all")
    group.add_argument("--machines", type=int, default=1, metavar="N", help="they run on")
    group.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda where there is one")
    group.add_argument(
        "--index-device",
        choices=["cpu", "cuda"],
        default="cpu",
        help="where the index is searched (default: cpu)",
    )
    group.add_argument("--ram", metavar="SIZE", help="memory of a machine, such as 64GB")
    group.add_argument("--gpu-memory", metavar="SIZE", help="memory of a GPU, such as 80GB")
    group.add_argument("--disk", metavar="SIZE", help="free disk space")
    group.add_argument(
        "--measure", action="store_true", help="time this machine instead of assuming rates"
    )


def _machine(args: argparse.Namespace) -> Machine:
    machine = this_machine(Path(args.out) if args.out else None)
    given = {"ram_bytes": args.ram, "gpu_bytes": args.gpu_memory, "disk_bytes": args.disk}
    sizes: dict[str, Any] = {
        name: parse_bytes(text) for name, text in given.items() if text is not None
    }
    return dataclasses.replace(machine, **sizes)


def _request(args: argparse.Namespace, machine: Machine) -> PlanRequest:
    retriever = _retriever(args)
    if args.dim is not None and args.dim != retriever.dim:
        raise InputError(
            f"--dim {args.dim}, but {args.retriever} makes embeddings of {retriever.dim}; "
            "leave out --dim or name another retriever"
        )
    device = args.device or ("cuda" if machine.gpu_bytes else "cpu")
    names = {field.name for field in dataclasses.fields(PlanRequest)}
    same = {name: value for name, value in vars(args).items() if name in names}
    return PlanRequest(
        **{
            **same,
            "passages": parse_count(args.passages),
            "dim": retriever.dim,
            "retriever": retriever,
            "reader": planned_model(args.reader, "reader") if args.reader else None,
            "device": device,
        }
    )


def _retriever(args: argparse.Namespace) -> PlannedModel:
    if args.retriever is not None:
        return planned_model(args.retriever, "retriever")
    if args.dim is not None and args.dim not in BY_DIM:
        raise InputError(
            f"--dim {args.dim}: no known encoder makes such embeddings; name one by --retriever"
        )
    return planned_model(BY_DIM[args.dim or 768], "retriever")


def _show(plan: Plan) -> None:
    console = Console()
    request, machine = plan.request, plan.machine
    uses_gpu = "cuda" in (request.device, request.index_device)
    size = size_of(request, request.passages)
    table = Table(
        "stage",
        *(f"{what}\n{of}" for what, of in _COLUMNS if what != "GPU" or uses_gpu),
        "time",
        title=f"{request.passages:,} passages, index {size.kind}: "
        f"{size.bytes_per_vector:,.0f} bytes a vector, {_bytes(size.disk_bytes)}",
    )
    for stage in plan.stages:
        gpu = [_bytes(stage.gpu_bytes)] if uses_gpu else []
        table.add_row(
            stage.name,
            _bytes(stage.ram_bytes),
            _bytes(stage.mapped_bytes),
            *gpu,
            _bytes(stage.disk_bytes),
            f"{_time(stage.seconds)} {stage.per}",
        )
    console.print(table)
    console.print(_rates(plan), markup=False)
    console.print(
        f"machine: RAM {_bytes(machine.ram_bytes)}, "
        + (f"GPU {_bytes(machine.gpu_bytes)}, " if machine.gpu_bytes else "")
        + f"disk {_bytes(machine.disk_bytes)} free; {request.ranks_of_machine} of {request.world} "
        f"processes on each of {request.machines}, {request.rows_of_rank:,} rows each",
        markup=False,
    )
    if plan.fits:
        console.print("everything fits", style="green")
    if plan.refused:
        console.print(f"train step: {plan.refused}", style="red", markup=False)
    for short in plan.shortages:
        console.print(
            f"{short.stage}: needs {_bytes(short.needed_bytes)} of {short.what}, "
            f"there is {_bytes(short.there_bytes)}",
            style="red",
            markup=False,
        )
    for change in plan.changes:
        verdict = "then everything fits" if change.fits else "helps, not enough alone"
        console.print(f"  {change.options}: {change.why}; {verdict}", markup=False)


_COLUMNS = (
    ("RAM", "per process"),
    ("mapped", "per process"),
    ("GPU", "each"),
    ("disk", "in all"),
)


def _rates(plan: Plan) -> str:
    speed = plan.speed
    how = "measured here" if speed.source == "measured" else "assumed; --measure times this machine"
    return (
        f"times from rates {how}: embedding {speed.embed_flops / 1e9:,.0f}, training "
        f"{speed.train_flops / 1e9:,.0f} GFLOP/s, search {speed.scan_bytes / 1e9:.1f}, disk "
        f"{speed.disk_bytes / 1e9:.2f} GB/s"
    )


def _bytes(size: float) -> str:
    if not size:
        return "-"
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= scale:
            return f"{size / scale:,.1f} {unit}"
    return f"{size / 1e3:,.1f} kB"


def _time(seconds: float) -> str:
    for unit, scale in (("days", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if seconds >= scale * (2 if unit == "days" else 1):
            return f"{seconds / scale:,.1f} {unit}"
    return f"{seconds * 1e3:,.2g} ms"


def _plain(value: Any) -> Any:
    return value.name if isinstance(value, PlannedModel) else value
