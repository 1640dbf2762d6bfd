"""The quickstart's run card."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

from atlas_lm import __version__
from atlas_lm.config import RunConfig
from atlas_lm.evaluation import (
    Comparison,
    Metrics,
    RunFacts,
    choose_examples,
    write_run_card,
)
from atlas_lm.model import Atlas
from atlas_lm.runtime.structure import changed_from_defaults, unstructure
from atlas_lm.training.run_log import LOG_FILE, read_log

if TYPE_CHECKING:
    from atlas_lm.cli.quickstart import Measured

STALENESS = (
    "steps_since_refresh",
    "staleness_drift",
    "staleness_topk_overlap",
    "passages_embedded",
)
"""What a card says of the index's freshness, as far as it was logged."""
_QUESTIONS = (
    "Questions are the supported test questions of Minipedia; none was trained on. Retrieval is "
    "measured on all of them, answers on a sample drawn by seed."
)
_BEFORE = (
    "Before: the pretrained reader under a few-shot prompt with the untrained retriever's passages."
)
_AFTER = "After: both halves fine-tuned together."
_AFTER_CONTROL = (
    "After: the control. The reader was never updated and has the same prompt as before; its "
    "pretrained likelihoods alone have taught the retriever."
)
_SHUFFLED = (
    " The reader's signals were dealt out at random among each question's passages: what the "
    "retriever gains is not due to them."
)
_INTERVALS = (
    "Intervals are 95% bootstrap intervals, paired for differences; a difference inside its noise "
    "is called none."
)


def is_control(config: RunConfig) -> bool:
    """Return whether a run leaves the reader as it is."""
    return config.training.reader.lr == 0.0


def notes(config: RunConfig) -> tuple[str, ...]:
    """Return what a card says of its measurements."""
    after = _AFTER_CONTROL if is_control(config) else _AFTER
    after += _SHUFFLED if config.objective.shuffle_signals else ""
    return _QUESTIONS, f"{_BEFORE} {after}", _INTERVALS


def write_card(
    out: Path,
    config: RunConfig,
    atlas: Atlas,
    before: Measured,
    after: Measured,
    comparisons: Sequence[Comparison],
    seconds: Mapping[str, float],
) -> Path:
    """Write ``out/run_card.html`` and return its path."""
    history = read_log(out / LOG_FILE)
    path = out / "run_card.html"
    last = {name: value for row in history for name, value in row.items()}
    write_run_card(
        path,
        title=config.title or "Quickstart",
        config=unstructure(config),
        history=history,
        before=Metrics({c.name: c.before for c in comparisons}),
        after=Metrics({c.name: c.after for c in comparisons}),
        comparisons=comparisons,
        examples_before_after=choose_examples(before.answers, after.answers),
        notes=notes(config),
        changed=list(changed_from_defaults(config)),
        facts=RunFacts(
            collapse=_present(last, "distinct_passages"),
            staleness=_present(last, *STALENESS)
            | {"passage encoder": "frozen" if config.staleness.query_side else "trained"},
            hardware=_hardware(atlas),
            timings=seconds,
            versions={
                "atlas-lm": __version__,
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "python": platform.python_version(),
            },
        ),
    )
    return path


def _present(last: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: last[name] for name in names if name in last}


def _hardware(atlas: Atlas) -> dict[str, Any]:
    return {
        "device": str(atlas.reader.device),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
