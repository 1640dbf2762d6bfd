"""Retriever pre-training, as a recipe of kind "contrastive" or "supervised" says."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from atlas_lm.cli.common import print_json
from atlas_lm.cli.pretrain_config import EncoderConfig, PretrainConfig, SupervisedRun
from atlas_lm.cli.steps import MODEL_STEP
from atlas_lm.cli.together import joined
from atlas_lm.cli.train import (
    continuing_command,
    refuse_several_processes,
    refuse_to_watch,
    resume_command,
    start_command,
    unless_terminated,
    watched,
)
from atlas_lm.config import load_recipe, read_toml, save_recipe
from atlas_lm.data.minipedia import prepare_minipedia
from atlas_lm.passages.store import PassageStore
from atlas_lm.retriever import BiEncoder, contrastive
from atlas_lm.retriever.contrastive_checkpoint import PretrainCheckpoints
from atlas_lm.retriever.contrastive_config import ContrastiveConfig
from atlas_lm.retriever.contrastive_data import train_wordpiece
from atlas_lm.retriever.contrastive_fit import FitConfig, Learner, fit_resumably, resume_from
from atlas_lm.retriever.contrastive_init import new_encoder
from atlas_lm.retriever.contrastive_learner import ContrastiveLearner
from atlas_lm.retriever.contrastive_sampler import PairSampler
from atlas_lm.retriever.supervised import SupervisedLearner
from atlas_lm.retriever.supervised_data import JudgedQuestions, QuestionSampler
from atlas_lm.runtime import distributed
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.files import sha256_file, write_json
from atlas_lm.runtime.logs import notice
from atlas_lm.runtime.settings import cache_dir
from atlas_lm.runtime.structure import unstructure
from atlas_lm.training.interrupt import StopRequest
from atlas_lm.training.lock import run_lock
from atlas_lm.training.run_log import LOG_FILE, RunLog
from atlas_lm.training.trackers import TrackedRun, open_trackers, require_trackers

_DECIDES_NOTHING = ("log_every", "save_every", "keep_last", "batch_tokens")
"""Options of ``fit`` that may differ in a run that is resumed."""


def run_recipe(path: Path, args: argparse.Namespace) -> int:
    """Train the retriever that is then in ``--out/retriever``."""
    if args.force:
        raise InputError(
            "--force: has no effect with a recipe that trains the retriever alone, of which no "
            "plan is made; leave it out"
        )
    if read_toml(path).get("kind") == "supervised":
        return _run(load_recipe(path, args.overrides, SupervisedRun), args, supervised_learner)
    config = load_recipe(path, args.overrides, PretrainConfig)
    if config.order == "stream":
        return _run(config, args, contrastive_learner)
    what = 'a recipe of order="memory"'
    refuse_several_processes(what)
    refuse_to_watch(args, what, track=False)
    if args.device != "cpu":
        raise InputError(
            f"--device {args.device}: has no effect with {what}, trained on the CPU; leave it out, "
            'or set order="stream"'
        )
    if args.resume:
        raise InputError(
            f'{what} cannot be resumed; run it again without --resume, or set order="stream"'
        )
    return unless_terminated(lambda: _in_memory(config, args), lambda: start_command(args))


def _in_memory(config: PretrainConfig, args: argparse.Namespace) -> int:
    out = Path(args.out)
    made = out / "retriever"
    with run_lock(out):
        if made.exists():
            raise InputError(f"{made}: exists already; choose another --out, or remove it first")
        store = PassageStore.open(passage_files(config.passages))
        passages = store.passages(range(len(store)))
        retriever = contrastive.run_recipe(config.contrastive, passages, made)
        save_recipe(out / "recipe.toml", config)
    _report(args, made, retriever, {"passages": len(passages)})
    return 0


def contrastive_learner(
    config: PretrainConfig, device: str
) -> tuple[ContrastiveLearner, dict[str, Any]]:
    """Return the learner of a streaming recipe and what its data is."""
    corpora = config.mix.corpora
    files = [corpus.passages for corpus in corpora] or [passage_files(config.passages)]
    stores = [PassageStore.open(list(each)) for each in files]
    retriever = start_encoder(config.encoder, config.contrastive, stores)
    sampler = PairSampler(
        stores,
        retriever.query_tokenizer,
        config.contrastive,
        config.fit.batch_size,
        config.fit.seed,
        [corpus.weight for corpus in corpora],
        config.mix.exponent,
        config.mix.document_maxlength,
    )
    retriever = prepared(retriever, config.fit).to(device)
    learner = ContrastiveLearner(
        retriever, sampler, config.contrastive, batch_tokens=config.fit.batch_tokens
    )
    return learner, {
        "passages": sum(map(len, stores)),
        "data": [store.fingerprint for store in stores],
    }


def supervised_learner(
    config: SupervisedRun, device: str
) -> tuple[SupervisedLearner, dict[str, Any]]:
    """Return the learner of a supervised recipe and what its data is."""
    if not config.data:
        raise InputError("data is empty; name judged questions, JSONL or DPR's JSON")
    store = PassageStore.open(list(config.passages)) if config.passages else None
    every = JudgedQuestions(config.data, store)
    questions = every.answerable()
    if left_out := len(every) - len(questions):
        notice(f"{left_out:,} of {len(every):,} questions have no positive passage: left out")
    retriever = BiEncoder.from_pretrained(
        config.encoder.path,
        settings=config.encoder.settings or None,
        tied=False if config.supervised.untie else None,
    )
    retriever = prepared(retriever, config.fit).to(device)
    fit, options = config.fit, config.supervised
    sampler = QuestionSampler(questions, fit.batch_size, options.hard_negatives, fit.seed)
    learner = SupervisedLearner(retriever, sampler, options, batch_tokens=fit.batch_tokens)
    data = [sha256_file(questions.path), store.fingerprint if store else ""]
    return learner, {"questions": len(questions), "data": data}


def start_encoder(
    start: EncoderConfig, cfg: ContrastiveConfig, stores: list[PassageStore]
) -> BiEncoder:
    """Return the encoder to train: the one named, or one drawn by seed."""
    if start.path:
        return BiEncoder.from_pretrained(start.path, settings=start.settings or None)
    each = max(1, start.tokenizer_passages // len(stores))
    passages = (passage for store in stores for passage in islice(store, each))
    texts = (text for passage in passages for text in (passage.heading, passage.text))
    tokenizer = train_wordpiece(texts, cfg.vocab_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.seed)
        encoder = new_encoder(cfg, tokenizer.get_vocab_size())
    return contrastive.as_bi_encoder(encoder, contrastive.as_transformers(tokenizer, cfg), cfg)


def prepared(retriever: BiEncoder, fit: FitConfig) -> BiEncoder:
    """Return the retriever with dropout and checkpointing as asked for."""
    if fit.dropout is not None:
        retriever.set_dropout(fit.dropout)
    if fit.gradient_checkpointing:
        retriever.enable_gradient_checkpointing()
    return retriever


def passage_files(named: tuple[str, ...]) -> tuple[str, ...]:
    """Return the passage files of a recipe, Minipedia's where it names none."""
    if named:
        return named
    data = cache_dir() / "minipedia"
    prepare_minipedia(data)
    return (str(data / "passages.jsonl"),)


def _run(
    config: Any,
    args: argparse.Namespace,
    make: Callable[[Any, str], tuple[Any, dict[str, Any]]],
) -> int:
    """Train with checkpoints in ``OUT/checkpoints`` and metrics in ``OUT/metrics.jsonl``."""
    refuse_to_watch(args, "a recipe that trains the retriever alone", track=True)
    require_trackers(watched(args))
    with joined(args.device, timeout_minutes=distributed.TIMEOUT / 60) as device:
        return unless_terminated(
            lambda: _resumably(config, args, make, device), lambda: continuing_command(args)
        )


def _resumably(
    config: Any,
    args: argparse.Namespace,
    make: Callable[[Any, str], tuple[Any, dict[str, Any]]],
    device: str,
) -> int:
    out, here = Path(args.out), distributed.world()
    with run_lock(out):
        learner, facts = make(config, device)
        checkpoints = PretrainCheckpoints(
            out / "checkpoints", _identity(config, facts), keep_last=config.fit.keep_last
        )
        start = _start(learner, checkpoints, out, resume=args.resume)
        distributed.barrier()
        if here.is_main:
            save_recipe(out / "recipe.toml", config)
        run = TrackedRun(out=out, title=config.title, config=checkpoints.config, first_step=start)
        with StopRequest() as stop:
            outcome = _fit(learner, config.fit, checkpoints, run, watched(args), lambda: stop.asked)
        if not here.is_main:
            return 0
        if not outcome.finished:
            notice(f"go on with: {resume_command(args)}")
            return 0
        learner.retriever.eval().save_pretrained(out / "retriever")
        write_json(out / "retriever" / MODEL_STEP, {"step": outcome.step})
        _report(args, out / "retriever", learner.retriever, {"steps": outcome.step, **facts})
    return 0


def _start(learner: Learner, checkpoints: PretrainCheckpoints, out: Path, *, resume: bool) -> int:
    if resume:
        step = resume_from(learner, checkpoints)
        notice(f"resuming from step {step}")
        return step
    if found := checkpoints.all():
        raise InputError(
            f"{out}: holds checkpoints of an earlier run, up to {found[-1].name}; go on with "
            "--resume, or choose another directory"
        )
    return 0


def _fit(
    learner: Learner,
    fit: FitConfig,
    checkpoints: PretrainCheckpoints,
    run: TrackedRun,
    track: tuple[str, ...],
    stop: Callable[[], bool],
) -> Any:
    start = run.first_step
    if not distributed.world().is_main:
        return fit_resumably(
            learner, fit, checkpoints, log=lambda step, metrics: None, start=start, stop=stop
        )
    with RunLog(
        run.out / LOG_FILE,
        total_steps=fit.steps,
        first_step=start,
        trackers=open_trackers(track, run),
    ) as log:
        return fit_resumably(learner, fit, checkpoints, log=log, start=start, stop=stop)


def _identity(config: Any, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides the weights of a run."""
    tables = unstructure(config)
    tables.pop("title", None)
    for name in _DECIDES_NOTHING:
        tables["fit"].pop(name, None)
    return {**tables, "data": facts["data"]}


def _report(
    args: argparse.Namespace, path: Path, retriever: BiEncoder, facts: Mapping[str, Any]
) -> None:
    parameters = sum(weight.numel() for weight in retriever.parameters())
    if args.json:
        shown = {name: value for name, value in facts.items() if name != "data"}
        print_json({"retriever": str(path), "parameters": parameters, **shown})
    else:
        notice(f"retriever: {path} ({parameters:,} parameters)")
