"""What fits, what does not, and what to change."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from atlas_lm.planning.machine import Machine
from atlas_lm.planning.placing import size_of
from atlas_lm.planning.request import PlanRequest
from atlas_lm.planning.stages import Stage, stages
from atlas_lm.planning.throughput import Throughput

USABLE = 0.9
"""Share of memory that is given out: the rest is the system's, and fragmentation."""


@dataclass(frozen=True, kw_only=True)
class Shortage:
    """Something a stage needs more of than there is."""

    stage: str
    """Which stage."""
    what: str
    """RAM, RAM for mapped files, GPU memory or disk."""
    needed_bytes: float
    """On one machine, on one GPU, or on disk."""
    there_bytes: float
    """What there is of it."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """Something to do otherwise."""

    options: str
    """What to add to the command."""
    why: str
    """What it does, and what it costs."""
    fits: bool
    """Whether everything fits with this change (and those listed before it, where chained)."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything a plan says."""

    request: PlanRequest
    """What was asked."""
    machine: Machine
    """What it was planned for."""
    speed: Throughput
    """The rates behind the times."""
    stages: tuple[Stage, ...]
    """What each stage takes."""
    shortages: tuple[Shortage, ...]
    """What does not fit; empty where all does."""
    refused: str
    """Why training would refuse to begin, whatever fits; "" where it would not."""
    changes: tuple[Change, ...]
    """What to do about it: each alone where one is enough, else one after the other."""

    @property
    def fits(self) -> bool:
        """Whether all of it can be run as it is planned."""
        return not self.shortages and not self.refused


def make_plan(request: PlanRequest, machine: Machine, speed: Throughput) -> Plan:
    """Return the plan of a request on a machine."""
    found = tuple(stages(request, machine, speed))
    missing = tuple(shortages(request, machine, found))
    refused = refusal(request)
    changes = tuple(_changes(request, machine, speed)) if missing or refused else ()
    return Plan(
        request=request,
        machine=machine,
        speed=speed,
        stages=found,
        shortages=missing,
        refused=refused,
        changes=changes,
    )


def refusal(request: PlanRequest) -> str:
    """Return why training would refuse to begin; "" where it would not."""
    size = size_of(request, 1)
    if not request.passages_move or size.exact:
        return ""
    return (
        f"the passage encoder learns, and the vectors of an index {request.index} cannot follow "
        "it: training needs a flat index, --query-side or --objective none"
    )


def shortages(
    request: PlanRequest, machine: Machine, found: tuple[Stage, ...]
) -> Iterator[Shortage]:
    """Yield what does not fit, stage by stage."""
    for stage in found:
        ranks = request.ranks_of_machine if stage.parallel else 1
        copies = ranks if size_of(request, 1).divisible else 1  # the same file is there once
        ram, mapped = ranks * stage.ram_bytes, copies * stage.mapped_bytes
        needs = (
            ("RAM", ram, machine.ram_bytes * USABLE),
            ("RAM with the mapped index", ram + mapped, machine.ram_bytes * USABLE),
            ("GPU memory", stage.gpu_bytes, machine.gpu_bytes * USABLE),
            ("disk", stage.disk_bytes, machine.disk_bytes),
        )
        for what, needed, there in needs:
            if needed > there and not (what.startswith("RAM with") and ram > there):
                yield Shortage(stage=stage.name, what=what, needed_bytes=needed, there_bytes=there)


Candidate = tuple[str, str, Callable[[PlanRequest], PlanRequest]]


def _candidates(request: PlanRequest, machine: Machine) -> Iterator[Candidate]:
    """Yield what could be changed, the cheapest in quality first."""

    def change(**fields: object) -> Callable[[PlanRequest], PlanRequest]:
        return lambda one: dataclasses.replace(one, **fields)  # type: ignore[arg-type]

    if request.index_device == "cuda":
        why = "searched in the machine's memory"
        yield "--index-device cpu", why, change(index_device="cpu")
    if refusal(request):
        why = "the query encoder alone learns, and the index never goes stale"
        yield "--query-side", why, change(query_side=True)
        yield "--index flat", "exact, and its vectors can follow", change(index="flat")
    lists = "ivfpq64" if request.dim % 64 == 0 else "ivf,sq8"
    if request.device == "cuda" and request.precision == "fp32":
        why = "half the activations, and several times faster"
        yield "--precision bf16", why, change(precision="bf16")
    if not request.gradient_checkpointing and request.reader is not None:
        why = "activations of one layer at a time, a third more time a step"
        yield "--gradient-checkpointing", why, change(gradient_checkpointing=True)
    if request.bsz > 1:
        steps = request.accumulation_steps * request.bsz
        why = "the same gradient from smaller pieces"
        yield (
            f"--bsz 1 --accumulation-steps {steps}",
            why,
            change(bsz=1, accumulation_steps=steps),
        )
    still = request.query_side or request.passages_move  # codes cannot follow the passage encoder
    with_it = " --query-side" if request.passages_move else ""
    for kind, why in (
        ("int8", "a quarter of fp32, next to exact"),
        ("binary", "a 32nd of fp32 in memory, rescored from int8 codes on disk"),
        (lists, "approximate: measure its recall when it is built"),
    ):
        if request.index.lower() != kind:
            coded = change(index=kind, keep_vectors=False, query_side=still)
            yield f"--index {kind}{with_it}", why, coded
    if request.n_context > 8:
        half = request.n_context // 2
        yield f"--n-context {half}", "fewer passages are read", change(n_context=half)
    if machine.gpu_bytes or request.machines > 1:
        more = 2 * request.world
        why = "twice the processes, on twice the machines: each holds half the rows"
        machines = 2 * request.machines
        yield (
            f"--world {more} --machines {machines}",
            why,
            change(world=more, machines=machines),
        )


def _changes(request: PlanRequest, machine: Machine, speed: Throughput) -> Iterator[Change]:
    """Yield changes that are each enough; where none is, those that together help most."""

    def left(one: PlanRequest) -> float:
        if refusal(one):
            return math.inf
        found = tuple(stages(one, machine, speed))
        return sum(
            short.needed_bytes - short.there_bytes for short in shortages(one, machine, found)
        )

    candidates = list(_candidates(request, machine))
    alone = [(options, why) for options, why, make in candidates if left(make(request)) <= 0]
    if alone:
        yield from (Change(options=options, why=why, fits=True) for options, why in alone)
        return
    now, short = request, left(request)
    for options, why, make in candidates:
        changed = make(now)
        remaining = left(changed)
        if remaining < short:
            now, short = changed, remaining
            yield Change(options=options, why=why, fits=short <= 0)
        if short <= 0:
            return
