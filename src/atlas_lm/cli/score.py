"""``atlas-lm score``: the loss lab. What each objective makes of your passages."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from torch import Tensor

from atlas_lm.cli.common import (
    add_context_arguments,
    add_data_arguments,
    add_json_argument,
    add_model_arguments,
    batches,
    load_data,
    open_model,
    print_json,
)
from atlas_lm.evaluation import has_answer
from atlas_lm.model import Atlas
from atlas_lm.objectives import OBJECTIVES, Objective, agreement, make_objective
from atlas_lm.runtime.errors import InputError, did_you_mean
from atlas_lm.runtime.modes import evaluating
from atlas_lm.types import Batch, Example, Passage

HELP = "The loss lab: gold scores and losses of each objective, and how well they agree."
EXAMPLE = (
    "atlas-lm score --model runs/quickstart/model --data given.jsonl "
    "--passages-from file --objective all --json"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add model, passages, data and objectives."""
    add_model_arguments(parser)
    add_context_arguments(parser)
    add_data_arguments(parser)
    parser.add_argument("--objective", default="all", metavar="NAMES", help="all, or pdist,loop")
    parser.add_argument("--temperature-score", type=float, metavar="T")
    parser.add_argument("--temperature-gold", type=float, metavar="T")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Score."""
    names = parse_objectives(args.objective)
    atlas = open_model(args)
    if atlas.config.context.passages_from == "none":
        raise InputError("closed book has no passages to score; use --passages-from file or index")
    changes = {
        name: value
        for name in ("temperature_score", "temperature_gold")
        if (value := getattr(args, name)) is not None
    }
    objectives = {
        name: make_objective(replace(atlas.config.objective, objective=name, **changes))
        for name in names
    }
    examples = load_data(args, atlas)
    lab = score(atlas, examples, objectives, bsz=args.bsz)
    if args.json:
        print_json(lab)
    else:
        _show(lab)
    return 0


def parse_objectives(text: str) -> list[str]:
    """Return the objectives of ``all`` or of a comma-separated list.

    Raises:
        InputError: a name is unknown.
    """
    if text == "all":
        return list(OBJECTIVES)
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in OBJECTIVES:
            raise InputError(
                f"--objective {name!r} is unknown{did_you_mean(name, OBJECTIVES)}; "
                f"known: all, {', '.join(OBJECTIVES)}"
            )
    return names


def score(
    atlas: Atlas, examples: Sequence[Example], objectives: dict[str, Objective], *, bsz: int
) -> dict[str, Any]:
    """Return each example's losses and gold scores, and the rank agreement between objectives.

    Losses are in nats; emdr2's gold score is the sum of the target's token log-likelihoods.
    """
    rows: list[dict[str, Any]] = []
    golds: dict[str, list[Tensor]] = {name: [] for name in objectives}
    retriever_scores, bearing = [], []
    for batch in batches(examples, bsz, "scoring"):
        scored, retriever_score, gold, passages = _score_batch(atlas, batch, objectives)
        rows += scored
        retriever_scores.append(retriever_score)
        for name, values in gold.items():
            golds[name].append(values)
        bearing.append(_answer_bearing(batch, passages))
    every = {"retriever": retriever_scores, **golds}
    return {
        "examples": rows,
        "agreement": agreement(
            {name: torch.cat(values).double() for name, values in every.items()},
            torch.cat(bearing),
        ),
    }


def _score_batch(
    atlas: Atlas, batch: Batch, objectives: dict[str, Objective]
) -> tuple[list[dict[str, Any]], Tensor, dict[str, Tensor], Sequence[Sequence[Passage]]]:
    n_context = atlas.config.context.n_context
    retriever = atlas.trained_retriever
    retrieved = atlas.retrieve(batch, n_context)
    inputs = atlas.reader.collate(batch.query, retrieved.passages)
    with torch.no_grad(), evaluating(retriever):
        retriever_score = retriever.score(batch.retriever_query, retrieved.passages).cpu()
    log_prob = atlas.reader.score(inputs, batch.target).cpu()
    gold, loss, tokens = {}, {}, None
    for temperature in {objective.logit_temperature for objective in objectives.values()}:
        same = {n: o for n, o in objectives.items() if o.logit_temperature == temperature}
        signals = atlas.reader.signals(
            inputs,
            batch.target,
            frozenset(objective.needs for objective in same.values()),
            logit_temperature=temperature,
        )
        tokens = signals.target_mask.sum(dim=-1)
        for name, objective in same.items():
            gold[name] = objective.gold_score(signals).cpu()
            loss[name] = objective.loss(retriever_score.to(signals.target_mask.device), signals)
    assert tokens is not None
    rows = [
        {
            "id": example.id,
            "target_tokens": int(tokens[place]),
            "reader_loss": -float(log_prob[place]) / int(tokens[place]),
            "passage_ids": [passage.id for passage in retrieved.passages[place]],
            "retriever_score": retriever_score[place].tolist(),
            "gold_score": {name: gold[name][place].tolist() for name in objectives},
            "retriever_loss": {name: float(loss[name][place]) for name in objectives},
        }
        for place, example in enumerate(batch.examples)
    ]
    return rows, retriever_score, gold, retrieved.passages


def _answer_bearing(
    batch: Batch, passages: Sequence[Sequence[Passage]]
) -> Float[Tensor, "bsz n_context"]:
    return torch.tensor(
        [
            [has_answer(f"{passage.heading}\n{passage.text}", example.answers) for passage in row]
            for example, row in zip(batch.examples, passages, strict=True)
        ]
    )


def _show(lab: dict[str, Any]) -> None:
    console = Console()
    losses = Table("objective", "mean retriever loss", "rank agreement with answer-bearing")
    bearing = lab["agreement"]["answer_bearing"]
    names = list(lab["examples"][0]["retriever_loss"])
    for name in ["retriever", *names]:
        values = [row["retriever_loss"][name] for row in lab["examples"]] if name in names else []
        mean = f"{sum(values) / len(values):.4f}" if values else ""
        losses.add_row(name, mean, _rho(bearing.get(name)))
    console.print(losses)
    pairs = Table("pair", "rank agreement (Spearman, mean over questions)")
    for pair, rho in lab["agreement"]["between"].items():
        pairs.add_row(pair.replace("~", " ~ "), _rho(rho))
    console.print(pairs)
    mean = sum(row["reader_loss"] for row in lab["examples"]) / len(lab["examples"])
    console.print(f"reader loss {mean:.4f} nats per target token, {len(lab['examples'])} questions")


def _rho(value: float | None) -> str:
    return "" if value is None else f"{value:+.3f}"
