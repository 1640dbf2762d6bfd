"""A joint training run: open both halves and the index, train, save what came of it."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

from atlas_lm.cli.examples import check_enough_passages, check_sentinels
from atlas_lm.cli.examples import training_examples as training_examples
from atlas_lm.cli.steps import MODEL_STEP
from atlas_lm.cli.together import build_index, measure_together
from atlas_lm.config import HalfConfig, RunConfig, save_recipe
from atlas_lm.index import FlatIndex
from atlas_lm.index.sharded import ShardedIndex
from atlas_lm.model import Atlas
from atlas_lm.passages.store import PassageStore
from atlas_lm.reader import open_reader
from atlas_lm.retriever import BiEncoder
from atlas_lm.runtime import distributed
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.files import write_json
from atlas_lm.runtime.logs import notice, warn
from atlas_lm.runtime.phases import PhaseClock
from atlas_lm.runtime.structure import unstructure
from atlas_lm.staleness import (
    AlwaysFresh,
    Freshness,
    LiveIndex,
    keep_fresh,
    train_query_side_only,
)
from atlas_lm.staleness.process import ProcessLauncher
from atlas_lm.tasks import find_task, with_wording
from atlas_lm.training import Checkpoints, Outcome, RunLog, TrainState, new_state, train
from atlas_lm.training.lock import run_lock
from atlas_lm.training.loop import model_device
from atlas_lm.training.lora import add_lora
from atlas_lm.training.profile import StepProfiler
from atlas_lm.training.run_log import LOG_FILE, write_phases
from atlas_lm.training.trackers import TrackedRun, open_trackers
from atlas_lm.types import Example

START_INDEX = "index-start"
"""The index a run began with, once its model has one of its own: what a resumed run opens."""

BACKGROUND = "background"
"""What training and a refresh beside it have in common, while one is under way."""


def open_halves(config: RunConfig) -> Atlas:
    """Open reader and retriever as the recipe says; no index is open yet.

    Raises:
        InputError: a path or a setting is wrong, or the reader is missing.
    """
    if not config.reader.path:
        raise InputError("reader.path is empty; name a directory, a Hub id or package:NAME")
    reader = open_reader(config.reader.path, config.reader.settings)
    seed = config.training.seed
    add_lora(reader, config.reader.lora, name="reader", seed=seed)
    retriever = None
    if config.retriever.path:
        retriever = open_retriever(config.retriever)
        if config.staleness.query_side:
            train_query_side_only(retriever)
        add_lora(retriever, config.retriever.lora, name="retriever", seed=seed)
    elif config.context.passages_from == "index":
        raise InputError(
            "retriever.path is empty; name an encoder, or set context.passages_from to file or none"
        )
    task = with_wording(config.task, find_task(config.task.task), reader.settings.kind)
    check_sentinels(config, task, reader)
    return Atlas(retriever, reader, dataclasses.replace(config.model, task=task))


def open_retriever(half: HalfConfig) -> BiEncoder:
    """Open the retriever of a recipe."""
    return BiEncoder.from_pretrained(half.path, settings=half.settings or None)


def open_or_build_index(atlas: Atlas, config: RunConfig, out: Path) -> Path | None:
    """Open the recipe's index, or the run's own; build that from the passages where there is none.

    Returns the index's directory; None where nothing is retrieved.
    """
    if config.context.passages_from != "index":
        return None
    start = out / START_INDEX
    own = start if start.is_dir() else out / "index"
    path = Path(config.data.index) if config.data.index else own
    if not config.data.index and not distributed.any_process(path.is_dir()):
        if not config.data.passages:
            raise InputError("give data.index, or data.passages to build one from")
        store = PassageStore.open([Path(p) for p in config.data.passages])
        check_enough_passages(config, atlas.config.task, len(store))
        build_index(atlas, store, path)
    atlas.open_index(path, shared=distributed.world().size > 1)
    check_enough_passages(config, atlas.config.task, atlas.n_findable)
    return path


def from_the_first_index(config: RunConfig, out: Path) -> RunConfig:
    """Return the recipe with ``data.index`` where that index lies now: a run may have moved it."""
    start = out / START_INDEX
    if not config.data.index or not _is_own(config, out) or not start.is_dir():
        return config
    data = dataclasses.replace(config.data, index=str(start))
    return dataclasses.replace(config, data=data)


def _is_own(config: RunConfig, out: Path) -> bool:
    """Return whether the index that the run begins with lies where its last one will."""
    named = config.data.index
    return not named or Path(named).resolve() == (out / "index").resolve()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Watch:
    """What to record of a run beside its JSONL log."""

    track: tuple[str, ...] = ()
    """Trackers; see `training.trackers`."""
    profile: int = 0
    """Steps that torch's profiler records."""


def run_joint(
    atlas: Atlas,
    config: RunConfig,
    examples: Sequence[Example],
    validation: Sequence[Example],
    out: Path,
    *,
    resume: bool = False,
    watch: Watch = Watch(),
    held: bool = False,
) -> Outcome:
    """Train both halves, then save the model to ``out/model`` and, if it moved, its index.

    The run directory holds ``recipe.toml`` (resolved), ``metrics.jsonl``, ``phases.json`` and
    ``checkpoints/``. A run that is stopped saves a checkpoint and no model. The directory is held
    meanwhile; ``held`` where the caller holds it already.

    Raises:
        InputError: another run is at work in ``out``, or an earlier one was and is not resumed.
    """
    main = distributed.world().is_main
    with nullcontext() if held else run_lock(out):
        checkpoints = Checkpoints(
            out / "checkpoints", config=unstructure(config), keep_last=config.training.keep_last
        )
        if not resume:
            checkpoints.require_none()
        freshness = keeper(atlas, config, out)
        state = new_state(atlas, examples, config.training, freshness=freshness)
        if resume:
            notice(f"resuming from {checkpoints.load(state)}")
        if main:
            save_recipe(out / "recipe.toml", config)
        evaluation = (lambda: _evaluate(atlas, validation)) if validation else None
        outcome = _train(state, config, checkpoints, out, evaluation, watch, atlas.n_findable)
        if outcome.finished:
            _finish(atlas, config, out, outcome)
    return outcome


def _train(
    state: TrainState,
    config: RunConfig,
    checkpoints: Checkpoints,
    out: Path,
    evaluation: Callable[[], dict[str, float]] | None,
    watch: Watch,
    findable: int,
) -> Outcome:
    """Train under the log, the trackers and the profiler; leave ``phases.json``.

    Of several processes the first does so for all.
    """
    if not distributed.world().is_main:
        return train(
            state,
            config.training,
            checkpoints=checkpoints,
            log=_unheard,
            evaluate=evaluation,
            findable=findable,
        )
    run = TrackedRun(out=out, title=config.title, config=checkpoints.config, first_step=state.step)
    log = RunLog(
        out / LOG_FILE,
        total_steps=config.training.total_steps,
        first_step=state.step,
        trackers=open_trackers(watch.track, run),
    )
    clock, resumed = PhaseClock(model_device(state)), state.step > 0
    profiler = StepProfiler(out, watch.profile) if watch.profile else None
    with log, profiler or nullcontext():
        outcome = train(
            state,
            config.training,
            checkpoints=checkpoints,
            log=log,
            evaluate=evaluation,
            clock=clock,
            after_step=profiler,
            findable=findable,
        )
    write_phases(out, clock, resumed=resumed)
    return outcome


def keeper(atlas: Atlas, config: RunConfig, out: Path) -> Freshness:
    """Return what keeps the open index near the retriever during the run in ``out``.

    Raises:
        InputError: the passage encoder will learn, and the index is of a kind whose vectors cannot
            follow it.
    """
    index, store = atlas.index, atlas.store
    if index is None or store is None or not passages_move(config):
        return AlwaysFresh(indexed=index is not None)
    if not isinstance(index, FlatIndex | ShardedIndex) or not isinstance(
        index.local if isinstance(index, ShardedIndex) else index, FlatIndex
    ):
        raise InputError(
            "the passage encoder learns, and the vectors of this index cannot follow it: train "
            "with a flat index in one piece (atlas-lm index compact takes in what was added and "
            "leaves out what is dead; atlas-lm index build --kind flat makes one of a stack or of "
            "another kind), or set staleness.query_side=true"
        )
    retriever, staleness = atlas.trained_retriever, config.staleness
    if staleness.refresh == "background" and distributed.world().size > 1:
        raise InputError(
            'staleness.refresh="background" runs beside one process; with several, each refreshes '
            'its share while training waits: set it to "full" or "partial"'
        )
    if staleness.refresh == "background" and config.retriever.lora.rank:
        raise InputError(
            'staleness.refresh="background" copies the passage encoder as it is, without adapters; '
            'with retriever.lora set it to "full" or "partial"'
        )
    if staleness.refresh_schedule == "never" and not config.context.n_rerank:
        warn(
            'the passage encoder learns, and with staleness.refresh_schedule="never" (the default) '
            "the index keeps the vectors that the run begins with: set it to "
            '"drift>0.1", or staleness.query_side=true'
        )
    launcher = ProcessLauncher(
        retriever, store, out / BACKGROUND, dtype=index.dtype, config=staleness.background
    )
    return keep_fresh(
        LiveIndex(index, store, retriever, lambda: atlas.fingerprint(store), atlas.allowed_rows()),
        staleness,
        launcher,
        topk=config.context.retriever_n_context,
        freeze_retriever_steps=config.training.freeze_retriever_steps,
        seed=config.training.seed,
    )


def passages_move(config: RunConfig) -> bool:
    """Return whether a run's passage encoder learns."""
    frozen = config.training.freeze_retriever_steps >= config.training.total_steps
    return not frozen and not config.staleness.query_side


def _evaluate(atlas: Atlas, validation: Sequence[Example]) -> dict[str, float]:
    return measure_together(atlas, validation, ks=(1, 5, 20, 100))


def _finish(atlas: Atlas, config: RunConfig, out: Path, outcome: Outcome) -> None:
    """Save the model; give it an index of its own where the passage encoder has moved."""
    main = distributed.world().is_main
    if main:
        shutil.rmtree(out / BACKGROUND, ignore_errors=True)
    save_model(atlas, out / "model")
    if main:
        write_json(out / "model" / MODEL_STEP, {"step": outcome.step})
    if passages_move(config) and atlas.index is not None and atlas.store is not None:
        if config.staleness.refresh_schedule == "never":
            warn("the passage encoder has moved; the index is embedded anew for the saved model")
        own = out / "index"
        if main and _is_own(config, out) and own.is_dir() and not (out / START_INDEX).exists():
            own.rename(out / START_INDEX)
        build_index(atlas, atlas.store, own, step=outcome.step)
        atlas.open_index(own, shared=distributed.world().size > 1)


def save_model(atlas: Atlas, path: Path) -> None:
    """Write the model, once for all processes. Collective."""
    with distributed.agreed():
        atlas.save_pretrained(path)


def _unheard(step: int, metrics: Mapping[str, float]) -> None:
    """Log nothing: process 0 does."""
