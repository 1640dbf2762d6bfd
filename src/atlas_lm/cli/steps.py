"""The training step of an encoder, which its run notes beside the weights."""

from __future__ import annotations

import argparse
from pathlib import Path

from atlas_lm.runtime.files import read_json

MODEL_STEP = "run.json"
"""In a saved model or retriever: the updates behind its weights."""


def add_step_argument(parser: argparse.ArgumentParser) -> None:
    """Add of which training step the encoder is."""
    parser.add_argument(
        "--step",
        type=int,
        metavar="N",
        help="training step of the encoder, for info (default: as noted beside its weights, or 0)",
    )


def step_of(args: argparse.Namespace) -> int:
    """Return the training step of the encoder."""
    return _trained_step(args) if args.step is None else int(args.step)


def _trained_step(args: argparse.Namespace) -> int:
    """Return the updates behind the encoder asked for; 0 where no run has noted any.

    A retriever inside a saved model is of that model's step.
    """
    place = Path(args.model or args.retriever or "")
    for file in (place / MODEL_STEP, place.parent / MODEL_STEP):
        if file.is_file():
            return int(read_json(file, what="a run's model").get("step") or 0)
    return 0
