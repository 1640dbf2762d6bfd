"""What a run will need of memory, disk and time, before anything starts."""

from atlas_lm.index.size import IndexSize, index_size
from atlas_lm.planning.advice import Change, Plan, Shortage, make_plan
from atlas_lm.planning.machine import Machine, this_machine
from atlas_lm.planning.models import PlannedModel, known_names, planned_model
from atlas_lm.planning.request import PlanRequest, parse_count
from atlas_lm.planning.stages import Stage, stages, state_bytes
from atlas_lm.planning.throughput import Throughput, assumed, measured

__all__ = [
    "Change",
    "IndexSize",
    "Machine",
    "Plan",
    "PlanRequest",
    "PlannedModel",
    "Shortage",
    "Stage",
    "Throughput",
    "assumed",
    "index_size",
    "known_names",
    "make_plan",
    "measured",
    "parse_count",
    "planned_model",
    "stages",
    "state_bytes",
    "this_machine",
]
