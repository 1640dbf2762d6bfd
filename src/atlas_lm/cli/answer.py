"""``atlas-lm answer``: one question, its answer, and the passages behind it."""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.table import Table

from atlas_lm.cli.common import (
    add_context_arguments,
    add_json_argument,
    add_model_arguments,
    open_model,
    print_json,
)
from atlas_lm.model import Answer
from atlas_lm.runtime.logs import verbatim

HELP = "Ask one question; see the answer, its log-probability and the passages behind it."
EXAMPLE = (
    "atlas-lm answer --model runs/quickstart/model --index runs/quickstart/index "
    '"Who painted the Mona Lisa?"'
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add model, passages and the question."""
    parser.add_argument("question", metavar="QUESTION")
    add_model_arguments(parser)
    add_context_arguments(parser)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Answer."""
    answer = open_model(args).answer(args.question)
    if args.json:
        print_json(to_json(args.question, answer))
        return 0
    console = Console()
    console.print(answer.text, style="bold", markup=False)
    console.print(f"log-probability {answer.log_prob:.3f}")
    if answer.sources:
        console.print(_sources(answer))
    return 0


def to_json(question: str, answer: Answer) -> dict[str, object]:
    """Return the answer as one JSON object."""
    return {
        "question": question,
        "answer": answer.text,
        "log_prob": answer.log_prob,
        "passages": [
            {
                "id": source.passage.id,
                "title": source.passage.heading,
                "text": source.passage.text,
                "score": source.score,
                "attention_share": source.attention_share,
            }
            for source in answer.sources
        ],
    }


def _sources(answer: Answer) -> Table:
    table = Table("passage", "score", "attention", "text")
    for source in answer.sources:
        text = source.passage.text
        table.add_row(
            verbatim(f"{source.passage.heading} ({source.passage.id})"),
            f"{source.score:.3f}",
            f"{source.attention_share:.0%}",
            verbatim(text if len(text) <= 300 else f"{text[:300]}…"),
        )
    return table
