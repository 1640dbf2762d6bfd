"""The options of a ``kind = "nano"`` recipe: a small model, in stages, from passages."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from atlas_lm.data.lookups import LookupConfig
from atlas_lm.data.nano_clozes import ClozeConfig
from atlas_lm.data.nano_reader import NanoReaderConfig
from atlas_lm.objectives import ObjectiveConfig
from atlas_lm.retrieve import ContextConfig
from atlas_lm.retriever.contrastive_config import ContrastiveConfig
from atlas_lm.runtime.errors import InputError
from atlas_lm.staleness import StalenessConfig
from atlas_lm.training import TrainingConfig
from atlas_lm.types import Generation


@dataclass(frozen=True, kw_only=True)
class NanoStage:
    """One lesson of the curriculum: what is asked, how it is read, how long it is trained."""

    name: str
    """Name of the stage and of its run directory."""
    data: Literal["lookups", "clozes", "questions"]
    """Made-up look-ups with given passages, gaps made of the passages, or real questions; the
    passages of the last two are retrieved."""
    lookups: LookupConfig = field(default_factory=LookupConfig)
    clozes: ClozeConfig = field(default_factory=ClozeConfig)
    context: ContextConfig = field(default_factory=ContextConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        if not self.name or not self.name.replace("-", "").replace("_", "").isalnum():
            raise InputError(f"stage name {self.name!r}: give letters, digits, - and _")
        given = self.context.passages_from
        wanted = "file" if self.data == "lookups" else "index"
        if given != wanted:
            raise InputError(
                f"stage {self.name!r}: the passages of {self.data} come from the {wanted}; "
                f'set context.passages_from="{wanted}", not "{given}"'
            )


@dataclass(frozen=True, kw_only=True)
class NanoConfig:
    """A small reader, and a retriever to go with it, trained in stages."""

    kind: Literal["nano"] = "nano"
    """A staged recipe."""
    title: str = ""
    """What it makes, in a few words."""
    passages: tuple[str, ...] = ()
    """Passage files (JSONL); Minipedia's where empty."""
    train: str = ""
    """Training questions (JSONL); where empty Minipedia's answerable dev questions but those of
    `validation`."""
    validation: str = ""
    """Questions measured after each stage; Minipedia's supported validation where empty."""
    retriever: str = ""
    """Directory, Hub id or package:NAME; where empty one is trained as `contrastive` says."""
    contrastive: ContrastiveConfig = field(default_factory=ContrastiveConfig)
    reader: NanoReaderConfig = field(default_factory=NanoReaderConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    staleness: StalenessConfig = field(default_factory=lambda: StalenessConfig(query_side=True))
    generation: Generation = field(default_factory=lambda: Generation(max_new_tokens=16))
    stages: tuple[NanoStage, ...] = ()
    """The curriculum, in order; each stage goes on with the reader of the one before."""
    measured: int = 512
    """Look-ups, and at most this many validation questions, measured after each stage."""

    def __post_init__(self) -> None:
        if not self.stages:
            raise InputError("stages is empty; give at least one [[stages]] table")
        name, times = Counter(stage.name for stage in self.stages).most_common(1)[0]
        if times > 1 or name in ("data", "index", "retriever", "start", "model"):
            raise InputError(f"stage name {name!r} is used twice or taken; choose another")
