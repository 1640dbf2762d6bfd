"""Options of the tasks that have some of their own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from atlas_lm.runtime.errors import InputError

Permutations = Literal["none", "cyclic", "all"]
"""Orders of a question's options: as given, every rotation, or every order."""


@dataclass(frozen=True, kw_only=True)
class PretextConfig:
    """How passages become examples (tasks lm, mlm and section)."""

    density: float = 0.15
    """mlm: share of the words that are hidden."""
    mean_span: float = 3.0
    """mlm: words in a hidden span, on average."""
    sentinels: int = 100
    """mlm: sentinels the reader's vocabulary has; a target of n spans takes n + 1 of them."""
    sentinel: str | None = None
    """mlm: how sentinel {n} is written; left out: <extra_id_{n}> for T5, [{n}] for others."""
    min_prefix: float = 0.25
    """lm: smallest share of the words that is shown."""
    max_prefix: float = 0.75
    """lm: largest share of the words that is shown."""
    draws: int = 1
    """Examples made of each passage, each with a cut of its own."""
    same_document: bool = False
    """Also keep the document's other passages from being retrieved."""
    overlap: int = 0
    """Keep passages that share a run of so many words with the hidden text from being shown."""

    def __post_init__(self) -> None:
        if not 0 < self.density < 1:
            raise InputError(f"task.pretext.density={self.density}: give a share between 0 and 1")
        if self.mean_span < 1:
            raise InputError(f"task.pretext.mean_span={self.mean_span}: give 1 word or more")
        if self.sentinels < 2:
            raise InputError(f"task.pretext.sentinels={self.sentinels}: give 2 or more")
        if not 0 < self.min_prefix <= self.max_prefix < 1:
            raise InputError(
                f"task.pretext.min_prefix={self.min_prefix} and max_prefix={self.max_prefix}: "
                "give shares above 0 and below 1, the smaller one first"
            )
        if self.draws < 1 or self.overlap < 0:
            raise InputError(
                f"task.pretext.draws={self.draws} must be 1 or more, overlap={self.overlap} 0 "
                "(no guard) or more"
            )
        if self.sentinel is not None and "{n}" not in self.sentinel:
            raise InputError(f"task.pretext.sentinel={self.sentinel!r}: write {{n}} in it")


@dataclass(frozen=True, kw_only=True)
class ChoiceConfig:
    """How a choice among labels or options is worded, shown and measured."""

    labels: dict[str, str] = field(default_factory=dict)
    """Labels and the words they are written as; empty: the task's own."""
    write: Literal["letter", "text"] = "letter"
    """multiple_choice: write the option's letter or its text."""
    train_permutations: Permutations = "none"
    """multiple_choice: orders of the options that are trained on: as given, 4 rotations, 24 orders
    of each question (all of them where there are 4 options)."""
    debias: Permutations = "none"
    """multiple_choice: orders over which probabilities are averaged when answering."""
    demonstrations: str = ""
    """multiple_choice: questions shown, solved, before each question: a JSONL file."""
    shots: int = 5
    """multiple_choice: how many are shown, of the question's own ``subject`` where it has one."""

    def __post_init__(self) -> None:
        if self.shots < 1:
            raise InputError(f"task.choices.shots={self.shots}: give 1 or more demonstrations")
