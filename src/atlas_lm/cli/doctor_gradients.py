"""``atlas-lm doctor --gradients RECIPE``: one toy step, and what it did to every module."""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from atlas_lm.cli.common import print_json
from atlas_lm.cli.joint import open_halves, training_examples
from atlas_lm.cli.together import build_index
from atlas_lm.config import RunConfig, find_recipe, load_recipe, read_toml
from atlas_lm.model import Atlas
from atlas_lm.passages.filters import rows_that_pass
from atlas_lm.passages.store import PassageStore
from atlas_lm.retrieve import ContextConfig
from atlas_lm.runtime.errors import InputError
from atlas_lm.training import TrainingConfig, new_state
from atlas_lm.training.gradients import GradientReport, ModuleGradient, probe_update

QUESTIONS = 2
"""Questions of the toy step, at most."""
PASSAGES = 64
"""Passages of its index, where the recipe has none yet."""


def run_gradients(args: argparse.Namespace) -> int:
    """Make the step and show it; exit code 2 where a half that should learn does not."""
    path = find_recipe(args.gradients)
    if (kind := read_toml(path).get("kind", "joint")) != "joint":
        raise InputError(
            f"{path}: a recipe of kind {kind!r}; --gradients looks at one step of joint training: "
            'give a recipe of kind "joint", such as the recipe.toml of a run or of one of its '
            "stages"
        )
    config = load_recipe(path, args.overrides, RunConfig)
    with tempfile.TemporaryDirectory() as scratch:
        report = toy_step(config, args.device, Path(scratch))
    expected = halves_that_should_learn(config)
    idle = [half for half, should in expected.items() if should and not report.learns(half)]
    if args.json:
        print_json(_described(report, expected))
    else:
        _show(report, expected)
    return 2 if idle else 0


def toy_step(config: RunConfig, device: str, scratch: Path) -> GradientReport:
    """Return what one update on a question or two does; ``scratch`` takes a small index.

    Both halves are asked to learn, whatever step the recipe thaws the retriever at, from one step's
    signals and at the peak of the learning rates.
    """
    atlas = open_halves(config if config.data.index else _unfiltered(config)).to(device)
    examples = training_examples(config, atlas.config.task, atlas.reader.settings.kind)
    training = _toy(config.training)
    _open_small_index(atlas, config, scratch)
    asked = [examples[row] for row in range(min(len(examples), QUESTIONS))]
    state = new_state(atlas, asked, training)
    step = training.reader.warmup_steps
    return probe_update(atlas, state.batches.take(1), state.optimizers, training, step=step)


def halves_that_should_learn(config: RunConfig) -> dict[str, bool]:
    """Return for each half whether the recipe means it to learn."""
    training = config.training
    thaws = training.freeze_retriever_steps < training.total_steps
    return {
        "reader": training.reader.lr > 0 and training.reader_loss_weight > 0,
        "retriever": bool(config.retriever.path)
        and config.context.passages_from != "none"
        and thaws
        and training.retriever.lr > 0
        and training.retriever_loss_weight > 0,
    }


def _toy(training: TrainingConfig) -> TrainingConfig:
    return dataclasses.replace(
        training,
        bsz=min(training.bsz, QUESTIONS),
        accumulation_steps=1,
        freeze_retriever_steps=min(training.freeze_retriever_steps, training.total_steps - 1)
        if training.freeze_retriever_steps < training.total_steps
        else training.total_steps,
        retriever=dataclasses.replace(training.retriever, warmup_steps=0),
        reader=dataclasses.replace(training.reader, warmup_steps=0),
        signal_round=1,
        signal_epochs=1,
        signal_batches=1,
    )


def _unfiltered(config: RunConfig) -> RunConfig:
    """Return the recipe without its filter: all passages of the small index pass it."""
    return dataclasses.replace(
        config, context=dataclasses.replace(config.context, where="", as_of="")
    )


def _open_small_index(atlas: Atlas, config: RunConfig, scratch: Path) -> None:
    """Open the recipe's index; where it is to be built, one over the first it lets be found."""
    if config.context.passages_from != "index":
        return
    if config.data.index:
        atlas.open_index(config.data.index)
        return
    store = PassageStore.open([Path(path) for path in config.data.passages])
    lines = [
        json.dumps(passage.record())
        for passage in store.passages(_first_rows(store, config.context))
    ]
    store.close()
    file = scratch / "passages.jsonl"
    file.write_text("\n".join(lines) + "\n", "utf-8")
    build_index(atlas, PassageStore.open([file]), scratch / "index")
    atlas.open_index(scratch / "index")


def _first_rows(store: PassageStore, context: ContextConfig) -> list[int]:
    """Return the first rows that satisfy the filter, as many as the toy step searches."""
    count = max(PASSAGES, 2 * context.retriever_n_context)
    if not context.filter:
        return list(range(min(len(store), count)))
    rows: list[int] = np.flatnonzero(rows_that_pass(store, context.filter))[:count].tolist()
    return rows


def _described(report: GradientReport, expected: dict[str, bool]) -> dict[str, Any]:
    return {
        "halves": {
            half: {"should_learn": should, "learns": report.learns(half)}
            for half, should in expected.items()
        },
        "modules": [
            {**dataclasses.asdict(module), "share": module.share, "learns": module.learns}
            for module in report.modules
        ],
        "metrics": report.done.metrics,
        "skipped": list(report.done.skipped),
    }


def _show(report: GradientReport, expected: dict[str, bool]) -> None:
    console = Console()
    for half, should in expected.items():
        modules = report.half(half)
        if not modules:
            continue
        table = Table("module", title=half)
        for name in ("parameters", "with gradient", "gradient norm", "update norm", "of its norm"):
            table.add_column(name, justify="right")
        for module in modules:
            table.add_row(*_row(module), style=None if module.learns else "yellow")
        console.print(table)
        console.print(_verdict(half, should, report), markup=False)


def _row(module: ModuleGradient) -> tuple[str, ...]:
    relative = module.update_norm / module.weight_norm if module.weight_norm else 0.0
    return (
        module.module,
        f"{module.parameters:,}",
        f"{module.share:.1%}" if module.trained else "frozen",
        f"{module.gradient_norm:.3g}",
        f"{module.update_norm:.3g}",
        f"{relative:.2%}",
    )


def _verdict(half: str, should: bool, report: GradientReport) -> str:
    modules = report.half(half)
    learning = sum(module.learns for module in modules)
    if report.learns(half):
        return f"{half}: learns ({learning} of {len(modules)} modules moved by a gradient)\n"
    if not should:
        return f"{half}: does not learn, and the recipe does not mean it to\n"
    if report.done.skipped:
        return f"{half}: DOES NOT LEARN: the loss is not finite on {', '.join(report.done.skipped)}"
    return (
        f"{half}: DOES NOT LEARN: no gradient reaches it. Are its parameters frozen, its targets "
        "empty, or are all passages of a question scored alike?\n"
    )
