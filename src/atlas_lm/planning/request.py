"""What is planned: the corpus, the index, both halves and the machine's options."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Literal

from atlas_lm.planning.models import PlannedModel
from atlas_lm.runtime.errors import InputError

Objective = Literal["pdist", "emdr2", "loop", "adist", "none"]
Precision = Literal["fp32", "bf16"]
Device = Literal["cpu", "cuda"]
VectorDtype = Literal["fp32", "fp16", "bf16"]
UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9, "T": 10**12}


@dataclass(frozen=True, kw_only=True)
class PlanRequest:
    """What the user intends to run."""

    passages: int
    """Passages in the corpus."""
    dim: int
    """Components of an embedding."""
    index: str = "flat"
    """Kind of index: flat or its dtype (fp32, fp16, bf16), int8, binary, or a faiss factory
    string."""
    dtype: VectorDtype = "fp32"
    """How full-precision vectors are stored: those kept, and those that codes are made from."""
    keep_vectors: bool = False
    """Keep full-precision vectors beside codes, on disk, to rescore from."""
    retriever: PlannedModel
    """The encoder."""
    reader: PlannedModel | None = None
    """The reader; None where only retrieval is planned."""
    world: int = 1
    """Processes that share the rows and the work."""
    machines: int = 1
    """Machines they run on."""
    device: Device = "cpu"
    """Where the models run."""
    index_device: Device = "cpu"
    """Where the index is searched, if its kind can be: flat and int8 on a GPU."""
    n_context: int = 5
    """Passages read per query."""
    n_rerank: int = 0
    """Candidates embedded anew per query."""
    topk: int = 100
    """Rows asked for in a search."""
    bsz: int = 1
    """Queries per process and micro-batch."""
    accumulation_steps: int = 1
    """Micro-batches per step."""
    passage_tokens: int = 160
    """Tokens of a passage with the query, on average."""
    passage_bytes: int = 614
    """Bytes of a passage in its file, on average."""
    query_tokens: int = 24
    """Tokens of a query."""
    target_tokens: int = 16
    """Tokens of a target or answer."""
    objective: Objective = "pdist"
    """How the retriever is trained; "none" freezes it."""
    query_side: bool = False
    """Train the query encoder alone, a copy of its own: the index never goes stale."""
    refreshed: int | None = None
    """Passages that a refresh embeds anew while training; all if None, 0 where none is made."""
    precision: Precision = "fp32"
    """fp32, or bf16 autocast over fp32 weights."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass."""
    gradient_checkpointing_retriever: bool | None = None
    """The same for the retriever; None: as the reader."""
    reader_trained: int | None = None
    """Parameters of the reader's adapters, where they alone are trained; None: it is trained."""
    retriever_trained: int | None = None
    """The same for the retriever, where it is trained."""
    num_beams: int = 1
    """Beams of generation."""

    def __post_init__(self) -> None:
        least = {"accumulation_steps": 1, "n_rerank": 0}
        names = (
            "passages dim world machines n_context topk bsz passage_tokens passage_bytes "
            "query_tokens target_tokens num_beams"
        )
        for name in (*names.split(), *least):
            if getattr(self, name) < least.get(name, 1):
                raise InputError(
                    f"{name}={getattr(self, name)}: give at least {least.get(name, 1)}"
                )
        if self.machines > self.world:
            raise InputError(
                f"machines={self.machines} is more than world={self.world}: "
                "every machine runs at least one process"
            )

    @property
    def without_adapters(self) -> PlanRequest:
        """The same, with both halves trained in full."""
        return dataclasses.replace(self, reader_trained=None, retriever_trained=None)

    @property
    def passages_move(self) -> bool:
        """Whether training changes the passage encoder, so that an index must follow it."""
        return self.reader is not None and self.objective != "none" and not self.query_side

    @property
    def refreshed_share(self) -> float:
        """Part of the index that a refresh of training replaces; 0 where there is none."""
        some = self.passages if self.refreshed is None else self.refreshed
        return min(some / self.passages, 1.0) if self.passages_move else 0.0

    @property
    def embedded_tokens(self) -> int:
        """Tokens of a passage that the retriever reads: what it cannot read is cut."""
        return min(self.passage_tokens, self.retriever.longest or self.passage_tokens)

    @property
    def rows_of_rank(self) -> int:
        """Rows of the largest share."""
        return -(-self.passages // self.world)

    @property
    def ranks_of_machine(self) -> int:
        """Processes on the fullest machine."""
        return -(-self.world // self.machines)


def parse_count(text: str) -> int:
    """Return a count such as 37M, 1.5B or 250000.

    Raises:
        InputError: it is none.
    """
    value = _scaled(text, UNITS)
    if value is None or value < 1 or value != int(value):
        raise InputError(f"{text!r}: give a count such as 37M, 1.5B or 250000")
    return int(value)


def _scaled(text: str, units: dict[str, int]) -> float | None:
    match = re.fullmatch(r"([0-9][0-9_,]*\.?[0-9]*)\s*([A-Za-z]*)", text.strip())
    if match is None or match[2].upper() not in units:
        return None
    return round(float(match[1].replace(",", "").replace("_", "")) * units[match[2].upper()], 6)
