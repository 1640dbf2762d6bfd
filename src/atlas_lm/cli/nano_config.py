"""The options of a ``kind = "nano"`` recipe: a small model, in stages, from passages."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

from atlas_lm.data.lookups import LookupConfig
from atlas_lm.data.nano_clozes import ClozeConfig
from atlas_lm.data.nano_reader import NanoReaderConfig
from atlas_lm.objectives import ObjectiveConfig
from atlas_lm.retrieve import ContextConfig
from atlas_lm.retriever.contrastive_config import ContrastiveConfig
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.structure import dotted, unstructure
from atlas_lm.staleness import StalenessConfig
from atlas_lm.training import TrainingConfig
from atlas_lm.training.changes import MAY_CHANGE
from atlas_lm.types import Generation


@dataclass(frozen=True, kw_only=True)
class NanoStage:
    """One lesson of the curriculum: what is asked, how it is read, how long it is trained."""

    name: str
    """Name of the stage and of its run directory."""
    data: Literal["lookups", "clozes", "questions"]
    """Made-up look-ups, gaps made of the passages, or real questions. Look-ups bring their
    passages; those of the others are retrieved: in every step, or once before the first one where
    context.passages_from is "file" (for stages in which the retriever does not learn)."""
    review: float = 0.0
    """Share of the examples that are like those of the stages before, of each as many; a reader
    forgets what it is no longer asked."""
    lookups: LookupConfig = field(default_factory=LookupConfig)
    clozes: ClozeConfig = field(default_factory=ClozeConfig)
    only_findable: bool = False
    """Leave out what none of the given passages answers, and take as the target an answer that one
    contains: a reader can learn to copy of nothing else. Needs context.passages_from="file"."""
    context: ContextConfig = field(default_factory=ContextConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        if not self.name or not self.name.replace("-", "").replace("_", "").isalnum():
            raise InputError(f"stage name {self.name!r}: give letters, digits, - and _")
        given = self.context.passages_from
        possible = ("file",) if self.data == "lookups" else ("index", "file")
        if given not in possible:
            raise InputError(
                f"stage {self.name!r}: the passages of {self.data} come from the "
                f'{" or the ".join(possible)}; set context.passages_from="{possible[0]}", '
                f'not "{given}"'
            )
        if self.only_findable and given != "file":
            raise InputError(
                f"stage {self.name!r}: only_findable=true needs passages that are known before "
                'training; set context.passages_from="file", or only_findable=false'
            )
        if not 0 <= self.review < 1:
            raise InputError(f"stage {self.name!r}: review={self.review}: give a share in [0, 1)")


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
        for number, stage in enumerate(self.stages):
            if stage.review and not self.before(number):
                raise InputError(
                    f"stage {stage.name!r}: review={stage.review}, but no stage before it asks "
                    "what it could ask again (look-ups bring their passages: a stage that "
                    "retrieves in every step cannot ask them); set review=0, or "
                    'context.passages_from="file"'
                )
        name, times = Counter(stage.name for stage in self.stages).most_common(1)[0]
        if times > 1 or name in ("data", "index", "retriever", "start", "model"):
            raise InputError(f"stage name {name!r} is used twice or taken; choose another")

    def before(self, number: int) -> tuple[NanoStage, ...]:
        """Return the stages before one whose questions it can ask again."""
        given = self.stages[number].context.passages_from == "file"
        return tuple(s for s in self.stages[:number] if given or s.data != "lookups")

    def require_same(self, saved: NanoConfig) -> None:
        """Refuse to go on with what another recipe has made.

        Raises:
            InputError: an option that decides what the run makes differs from the saved recipe's.
        """
        before, now = saved._decisive(), self._decisive()
        for key in sorted(before.keys() | now.keys()):
            if before.get(key) != now.get(key):
                raise InputError(
                    f"resume: {key} was {before.get(key)!r} and is {now.get(key)!r}; resume with "
                    "the same recipe, or start anew in another directory"
                )

    def _decisive(self) -> dict[str, Any]:
        """Return every option that decides what is made, by its dotted name."""
        table = unstructure(self)
        del table["title"]
        for stage in table["stages"]:
            for name in MAY_CHANGE:
                stage["training"].pop(name, None)
        return dotted({**table, "stages": {str(n): s for n, s in enumerate(table["stages"])}})
