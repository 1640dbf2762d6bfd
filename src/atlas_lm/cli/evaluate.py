"""``atlas-lm evaluate``: answers and retrieval on a file of questions, with intervals."""

from __future__ import annotations

import argparse

from rich.console import Console

from atlas_lm.cli.common import (
    add_context_arguments,
    add_data_arguments,
    add_json_argument,
    add_model_arguments,
    load_data,
    open_model,
    print_json,
)
from atlas_lm.evaluation import measure, metrics_table, to_json, write_predictions
from atlas_lm.runtime.errors import InputError

HELP = "Measure answers (EM, F1, ROUGE-L) and retrieval (recall, MRR) with 95% intervals."
EXAMPLE = (
    "atlas-lm evaluate --model runs/quickstart/model --index runs/quickstart/index "
    "--data test.jsonl --predictions predictions.jsonl"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add model, data, passages and what is written."""
    add_model_arguments(parser)
    add_context_arguments(parser)
    add_data_arguments(parser)
    parser.add_argument("--recall-at", default="1,5,20,100", metavar="K,K", help="depths of recall")
    parser.add_argument("--retrieval-only", action="store_true", help="write no answers")
    parser.add_argument("--predictions", metavar="FILE", help="write one JSON line a question")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate."""
    ks = parse_depths(args.recall_at)
    atlas = open_model(args)
    examples = load_data(args, atlas)
    evaluation = measure(atlas, examples, ks=ks, answers=not args.retrieval_only, bsz=args.bsz)
    if args.predictions:
        write_predictions(args.predictions, evaluation.records)
    if args.json:
        print_json(to_json(evaluation.metrics))
    else:
        Console().print(metrics_table(evaluation.metrics, title=args.data))
    return 0


def parse_depths(text: str) -> tuple[int, ...]:
    """Return depths written as ``1,5,20``.

    Raises:
        InputError: a part is not a whole number above 0.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise InputError(f"--recall-at {text!r}: write depths as 1,5,20")
    return tuple(int(part) for part in parts)
