"""A real Atlas, tiny, and what each of several processes does with it in the tests."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from atlas_lm.data.tinymodels import tiny_reader, tiny_retriever
from atlas_lm.index import FlatIndex
from atlas_lm.model import Atlas, AtlasConfig
from atlas_lm.objectives import ObjectiveConfig
from atlas_lm.reader.fid import FiDReader
from atlas_lm.retrieve import ContextConfig
from atlas_lm.runtime import distributed
from atlas_lm.training import Batches, OptimConfig, TrainingConfig, make_optimizers, update
from atlas_lm.training.lora import LoRAConfig, add_lora
from atlas_lm.types import Example, Passage, TokenLoss

WORDS = [f"w{number}" for number in range(60)]
OPTIM = OptimConfig(lr=3e-3, max_grad_norm=0.0)


class Store:
    """Passages in memory."""

    hidden = None

    def __init__(self, count: int = 30) -> None:
        drawn = random.Random(1)
        self.all = [
            Passage(f"p{n}", " ".join(drawn.choices(WORDS, k=drawn.randint(2, 8))))
            for n in range(count)
        ]

    def __len__(self) -> int:
        return len(self.all)

    def passages(self, rows):
        return [self.all[row] for row in rows]

    def rows_of(self, ids, missing="skip"):
        return [int(one[1:]) for one in ids]


def questions(count: int = 24) -> list[Example]:
    """Targets of one to three words; some may not see some passages."""
    drawn = random.Random(2)
    return [
        Example(
            f"q{n}",
            " ".join(drawn.choices(WORDS, k=drawn.randint(1, 5))),
            " ".join(drawn.choices(WORDS, k=1 + n % 3)),
            excluded_passage_ids=frozenset({"p3"}) if n % 4 == 0 else frozenset(),
        )
        for n in range(count)
    ]


def tiny_atlas(objective: str = "pdist", **options: object) -> Atlas:
    """Retrieves 4 of 30 passages, reads 3 of them."""
    made = tiny_reader(WORDS, dim=32, heads=4)
    reader = FiDReader(made.model, made.tokenizer, replace(made.settings, encoder_chunks=2))
    atlas = Atlas(
        tiny_retriever(WORDS, dim=32, tied=bool(options.pop("tied", True))),
        reader,
        AtlasConfig(
            context=ContextConfig(n_context=3, retriever_n_context=4),
            objective=ObjectiveConfig(
                objective=objective, temperature_score=0.1, temperature_gold=0.1, **options
            ),
        ),
    )
    atlas.store = Store()
    embeddings = atlas.retriever.embed_corpus(atlas.store.all)
    atlas.index = FlatIndex(embeddings, fingerprint=fingerprint())
    return atlas


def fingerprint():
    from atlas_lm.index.files import Fingerprint

    return Fingerprint("tiny", "{text}", "mean", "dot", 16, 32, "corpus")


def training(**values: object) -> TrainingConfig:
    return TrainingConfig(
        **{
            "total_steps": 4,
            "bsz": 3,
            "accumulation_steps": 4,
            "reader": OPTIM,
            "retriever": OPTIM,
            "dropout": 0.0,
            **values,
        }
    )


def updates(
    atlas: Atlas, cfg: TrainingConfig, steps: int = 2, change: Callable | None = None
) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    """Return the whole gradient of the first update, and the metrics of each."""
    optimizers = make_optimizers(atlas, cfg)
    for half in (atlas.reader, atlas.retriever):
        half.set_dropout(0.0)
    order = Batches(questions(), cfg.bsz, cfg.seed)
    seen: dict[str, torch.Tensor] = {}
    for name, half in optimizers.halves.items():
        half.update = noting(seen, name, half)
    metrics = []
    for step in range(steps):
        batches = order.take(cfg.accumulation_steps)
        if change is not None:
            batches = change(step, batches)
        train_retriever = step >= cfg.freeze_retriever_steps
        done = update(atlas, batches, optimizers, cfg, step=step, train_retriever=train_retriever)
        timeless = {n: v for n, v in done.metrics.items() if "per_second" not in n}
        metrics.append({**timeless, "skipped": float(bool(done.skipped))})
    return seen, metrics


def noting(seen, name, half):
    move = half.update

    def update(step):
        for parameter, value in half.parameters.items():
            if value.grad is not None and f"{name}.{parameter}" not in seen:
                seen[f"{name}.{parameter}"] = distributed.whole(value.grad).clone()
        move(step)

    return update


ADAPTERS = "adapters on both halves"
CASES: dict[str, tuple[dict, dict]] = {
    "pdist": ({"objective": "pdist"}, {}),
    "loop": ({"objective": "loop"}, {}),
    "adist": ({"objective": "adist"}, {}),
    "emdr2": ({"objective": "emdr2"}, {}),
    "untied, one batch": (
        {"objective": "pdist", "tied": False},
        {"bsz": 12, "accumulation_steps": 1},
    ),
    "candidates pooled": (
        {"objective": "pdist", "pool_candidates": True},
        {"bsz": 12, "accumulation_steps": 1},
    ),
    "candidates pooled, fewer queries than processes": (
        {"objective": "adist", "pool_candidates": True},
        {"bsz": 2, "accumulation_steps": 1},
    ),
    "fewer queries than processes": (
        {"objective": "emdr2"},
        {"bsz": 1, "accumulation_steps": 2},
    ),
    "the retriever frozen at first": (
        {"objective": "pdist"},
        {"freeze_retriever_steps": 1, "retriever": OPTIM},
    ),
    "a poisoned example": ({"objective": "pdist"}, {"total_steps": 3}),
    "recomputed activations": (
        {"objective": "pdist"},
        {"gradient_checkpointing_reader": True},
    ),
    ADAPTERS: ({"objective": "pdist"}, {}),
}


def case(name: str, parallel: str = "ddp"):
    """Do two updates of a case; return the gradients and the metrics."""
    options, values = CASES[name]
    atlas = tiny_atlas(**options)
    if values.get("gradient_checkpointing_reader"):
        atlas.reader.enable_gradient_checkpointing()
    cfg = training(**values, parallel=parallel)
    if name == ADAPTERS:
        for half in ("reader", "retriever"):
            add_lora(getattr(atlas, half), LoRAConfig(rank=4), name=half)
    if name == "a poisoned example":
        poison(atlas, next(Batches(questions(), cfg.bsz, cfg.seed)).ids[0])
    found = updates(atlas, cfg)
    sharded = parallel == "fsdp" and distributed.is_started()
    assert distributed.is_sharded(next(atlas.reader.parameters())) == sharded
    return found


def poison(atlas: Atlas, guilty: str) -> None:
    """Let the reader's loss on an example be no number."""
    losses = atlas.losses

    def poisoned(batch, **options):
        given = losses(batch, **options)
        if guilty not in batch.ids:
            return given
        reader = TokenLoss(given.reader.total * torch.nan, given.reader.tokens)
        return replace(given, reader=reader)

    atlas.losses = poisoned


def poisoned_run(rank: int, size: int, directory: Path, parallel: str):
    """What is said, skipped and done by a run that one process has more examples in than another.

    Each process looks for the guilty one among its own.
    """
    from atlas_lm.staleness import AlwaysFresh
    from atlas_lm.training import Checkpoints, new_state, skips, train

    said: list[str] = []
    skips.warn = said.append
    cfg = training(total_steps=2, bsz=3, accumulation_steps=1, parallel=parallel, dropout=0.1)
    atlas = tiny_atlas(tied=False)
    poison(atlas, next(Batches(questions(), cfg.bsz, cfg.seed)).ids[0])
    state = new_state(atlas, questions(), cfg, freshness=AlwaysFresh())
    checkpoints = Checkpoints(directory / "run")
    done = train(state, cfg, checkpoints=checkpoints, log=lambda *_: None)
    return [said, state.skipped, done.finished, [one.name for one in checkpoints.all()]]


def cases(rank: int, size: int, directory: Path, names: tuple[str, ...], parallel: str):
    """What one process of several does: every case, one after the other."""
    return {name: case(name, parallel) for name in names}


def gathered(rank: int = 0, size: int = 1, directory: Path | None = None):
    """A round of gathered signals: its metrics, and what is saved of it midway."""
    from atlas_lm.training.rounds import SignalMemory, learn_round

    cfg = training(
        signal_round=2, signal_epochs=2, signal_batches=3, reader=OptimConfig(lr=0.0), total_steps=2
    )
    atlas = tiny_atlas("pdist")
    optimizers = make_optimizers(atlas, cfg)
    order = Batches(questions(), cfg.bsz, cfg.seed)
    memory = SignalMemory()
    for step in range(2):
        batches = order.take(cfg.accumulation_steps)
        done = update(atlas, batches, optimizers, cfg, step=step, train_retriever=True)
        memory.gather(done.measured, order.parts(cfg.accumulation_steps), cfg.accumulation_steps)
    saved = memory.facts(), memory.tensors()
    memory = SignalMemory()
    memory.restore(*saved)
    learnt = learn_round(atlas, memory, optimizers.retriever, cfg, optimizers.parallel)
    ids = [id for entry in saved[0]["gathered"] for id in entry["ids"]]
    signals = saved[1]["signals"]
    return learnt.metrics, ids, signals, atlas.retriever.state_dict()


def low_precision(rank: int, size: int, directory: Path):
    """A sharded update in bfloat16 with shares kept on the CPU: what is logged of it."""
    from atlas_lm.training.config import FSDPConfig

    cfg = training(
        parallel="fsdp", fsdp=FSDPConfig(param_dtype="bf16", reduce_dtype="fp32", cpu_offload=True)
    )
    atlas = tiny_atlas("emdr2")
    metrics = updates(atlas, cfg, steps=2)[1]
    assert all(p.dtype == torch.float32 for p in atlas.reader.parameters())
    return metrics
