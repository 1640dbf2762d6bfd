"""``atlas-lm export``: a model to share, from a run, any checkpoint, or a saved model."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atlas_lm import __version__
from atlas_lm.cli.common import add_json_argument, print_json
from atlas_lm.cli.joint import open_halves
from atlas_lm.cli.steps import MODEL_STEP
from atlas_lm.config import RunConfig, load_recipe, read_toml, save_recipe
from atlas_lm.evaluation.measures import is_of_answers
from atlas_lm.evaluation.model_card import CardFacts, model_card
from atlas_lm.model import Atlas
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.files import atomic_directory, read_json
from atlas_lm.runtime.logs import notice
from atlas_lm.runtime.structure import structure
from atlas_lm.training import Checkpoints
from atlas_lm.training.checkpoint_files import load_model
from atlas_lm.training.run_log import LOG_FILE, read_log

HELP = (
    "Write a model to share: reader/ and retriever/ as ordinary transformers directories, "
    "atlas.json,\nthe recipe and a model card, from a run, any of its checkpoints, or a model."
)
EXAMPLE = (
    "atlas-lm export runs/64shot --out export\n"
    "  atlas-lm export runs/64shot --best --out export --license apache-2.0\n"
    "  atlas-lm export runs/64shot/checkpoints/step-00000200 --out export\n"
    "  hf upload OWNER/NAME export"
)
_OF_RETRIEVAL = ("recall_at_", "mrr", "gold_recall_at_")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Opened:
    """A model with what is known of how it came about."""

    atlas: Atlas
    config: RunConfig | None = None
    """The resolved recipe; None where the model alone was given."""
    step: int | None = None
    """Updates behind the weights."""
    run: Path | None = None
    """The run's directory."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what is exported, where to, and what the card says."""
    parser.add_argument("source", metavar="DIR", help="a run, a checkpoint or a model")
    parser.add_argument("--out", required=True, metavar="DIR", help="a new directory")
    parser.add_argument(
        "--best", action="store_true", help="of a run: its best checkpoint, not its last weights"
    )
    parser.add_argument("--name", help="the model's name in its card (default: that of --out)")
    parser.add_argument("--license", default="", metavar="SPDX", help="written into the card")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Export."""
    out = Path(args.out)
    if out.exists():
        raise InputError(f"{out}: exists already; choose another directory or remove it first")
    opened = open_source(Path(args.source), best=args.best)
    write_export(opened, out, name=args.name or out.resolve().name, licence=args.license)
    files = sorted(path.relative_to(out).as_posix() for path in out.iterdir())
    if args.json:
        print_json({"model": str(out), "step": opened.step, "files": files})
    else:
        step = f" of step {opened.step}" if opened.step is not None else ""
        notice(f"the model{step}: {out} ({', '.join(files)})\nshare it: hf upload OWNER/NAME {out}")
    return 0


def open_source(source: Path, *, best: bool = False) -> Opened:
    """Open what is to be exported.

    Of a run that is the model it ended with; where it has gone on since, its newest checkpoint.

    Raises:
        InputError: it is no run, checkpoint or model; has no best checkpoint; or is of a kind that
            has no reader, or several runs.
    """
    if (source / "atlas.json").is_file():
        if best:
            raise InputError(f"{source}: is a model; --best is for runs")
        return Opened(atlas=Atlas.from_pretrained(source))
    if (source / "state.json").is_file():
        return _from_checkpoint(source)
    if (recipe := source / "recipe.toml").is_file():
        _refuse_other_kinds(source, read_toml(recipe).get("kind", "joint"), source)
    checkpoints = Checkpoints(source / "checkpoints")
    if best:
        return _from_checkpoint(checkpoints.best())
    newest = checkpoints.all()[-1:]
    if (source / "model" / "atlas.json").is_file():
        config = load_recipe(recipe, (), RunConfig)
        step = _step_of_model(source, config)
        if not newest or step == int(newest[0].name.removeprefix("step-")):
            atlas = Atlas.from_pretrained(source / "model")
            return Opened(atlas=atlas, config=config, step=step, run=source)
    if newest:
        return _from_checkpoint(newest[0])
    raise InputError(
        f"{source}: neither a run, nor a checkpoint (state.json), nor a model (atlas.json)"
    )


def write_export(opened: Opened, out: Path, *, name: str, licence: str = "") -> None:
    """Write the directory; it appears whole or not at all."""
    facts = card_facts(opened, name=name, licence=licence)
    with atomic_directory(out, replace=False) as temporary:
        model = temporary / "model"
        opened.atlas.save_pretrained(model)
        for part in model.iterdir():
            part.rename(temporary / part.name)
        model.rmdir()
        if opened.config is not None:
            save_recipe(temporary / "recipe.toml", opened.config)
        (temporary / "README.md").write_text(model_card(facts), "utf-8")


def card_facts(opened: Opened, *, name: str, licence: str) -> CardFacts:
    """Return what the model's card says."""
    atlas, config = opened.atlas, opened.config
    retriever = atlas.retriever
    data = dataclasses.asdict(config.data) if config else {}
    return CardFacts(
        name=name,
        title=config.title if config else "",
        reader={
            "path": _origin(config.reader.path) if config else "",
            "kind": "Fusion-in-Decoder" if atlas.reader.settings.kind == "fid" else "causal LM",
            "parameters": _count(atlas.reader),
        },
        retriever={
            "path": _origin(config.retriever.path) if config else "",
            "kind": "tied bi-encoder" if retriever.tied else "untied bi-encoder",
            "parameters": _count(retriever),
        }
        if retriever
        else {},
        objective=atlas.config.objective.name,
        step=opened.step,
        total_steps=config.training.total_steps if config else None,
        data={key: _shown(data[key]) for key in ("train", "passages", "index") if data.get(key)},
        metrics=_last_measured(opened),
        licence=licence,
        version=__version__,
    )


def _from_checkpoint(path: Path) -> Opened:
    """Open the recipe's halves and give them a checkpoint's weights."""
    facts = read_json(path / "state.json", what="a training checkpoint")
    _refuse_other_kinds(path, facts["config"].get("kind", "joint"), path.parent.parent)
    config = structure(facts["config"], RunConfig, place=f"{path}/state.json")
    atlas = open_halves(config)
    modules: dict[str, Any] = {"reader": atlas.reader, "retriever": atlas.retriever}
    load_model(path, {name: module for name, module in modules.items() if module is not None})
    return Opened(atlas=atlas, config=config, step=facts["step"], run=path.parent.parent)


def _step_of_model(run: Path, config: RunConfig) -> int:
    """Return the updates behind ``run/model``: as noted beside it, else those the recipe asks for.

    The recipe alone does not tell: a run that goes on with more steps has written it anew.
    """
    file = run / "model" / MODEL_STEP
    noted = read_json(file, what="a run's model")["step"] if file.is_file() else None
    return config.training.total_steps if noted is None else int(noted)


def _refuse_other_kinds(place: Path, kind: str, run: Path) -> None:
    """Refuse a run, or a checkpoint of a run, that has no reader or is of several runs.

    Raises:
        InputError: it is not of a recipe of kind "joint".
    """
    if kind in ("contrastive", "supervised"):
        raise InputError(
            f"{place}: of a recipe of kind {kind!r}, which trains a retriever alone; once it is "
            f"trained it is {run}/retriever, which can be shared as it is"
        )
    if kind == "nano":
        stages = sorted(str(each.parent) for each in run.glob("*/checkpoints"))
        raise InputError(
            f"{place}: of a recipe of kind {kind!r}, each of whose stages is a run; export one of "
            f"those{': ' if stages else ''}{', '.join(stages)}"
        )


def _last_measured(opened: Opened) -> dict[str, float]:
    """Return the evaluation at the model's step, or the last before it."""
    log = opened.run / LOG_FILE if opened.run else None
    if log is None or not log.is_file():
        return {}
    found: dict[str, float] = {}
    for row in read_log(log):
        if opened.step is not None and row["step"] <= opened.step:
            found |= _metrics(row)
    return found


def _metrics(row: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: value
        for name, value in row.items()
        if (is_of_answers(name) or name.startswith(_OF_RETRIEVAL))
        and isinstance(value, float)
        and math.isfinite(value)
    }


def _origin(path: str) -> str:
    """Return where a half came from: a Hub id or package as it is, a directory by its name."""
    local = path.startswith((".", "/", "~")) or Path(path).exists()
    return Path(path).name if local else path


def _count(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _shown(value: Any) -> str:
    """Return the names of files, without the directories that mean nothing elsewhere."""
    paths = value if isinstance(value, list | tuple) else [value]
    return ", ".join(f"`{Path(path).name}`" for path in paths)
