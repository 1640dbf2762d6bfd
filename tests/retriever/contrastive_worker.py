"""What each of several gloo processes does in the tests of contrastive training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch

from atlas_lm.passages.store import PassageStore
from atlas_lm.retriever import BiEncoder
from atlas_lm.retriever.contrastive_checkpoint import PretrainCheckpoints
from atlas_lm.retriever.contrastive_config import ContrastiveConfig
from atlas_lm.retriever.contrastive_fit import FitConfig, fit_resumably
from atlas_lm.retriever.contrastive_learner import ContrastiveLearner
from atlas_lm.retriever.contrastive_sampler import PairSampler
from atlas_lm.retriever.supervised import SupervisedConfig, SupervisedLearner
from atlas_lm.retriever.supervised_data import JudgedQuestions, QuestionSampler
from tests.retriever.conftest import DOT

WORDS = (
    *("otter", "heron", "badger", "lynx", "falcon", "newt", "viper", "marten"),
    *("river", "marsh", "wood", "ridge", "cliff", "pond"),
)
FIT = FitConfig(
    batch_size=6,
    steps=4,
    learning_rate=1e-3,
    warmup_steps=1,
    eps=1e-4,  # gradients that are 0 but for rounding (key biases) must not be made large
    save_every=2,
    log_every=1,
    dropout=0.0,
)
CONTRASTIVE = ContrastiveConfig(
    crop_share=1.0,
    span_share=0.0,
    title_share=0.0,
    query_maxlength=12,
    key_maxlength=16,
    similarity="dot",
    temperature=0.5,
    queue_size=16,
    momentum=0.9,
)


def write_corpus(path: Path, count: int = 20, prefix: str = "") -> Path:
    with path.open("w") as file:
        for row in range(count):
            words = [WORDS[(row * 3 + step * step) % len(WORDS)] for step in range(24)]
            entry = {"id": f"{prefix}{row}", "title": words[0], "text": " ".join(words)}
            file.write(json.dumps(entry) + "\n")
    return path


def write_questions(path: Path, count: int = 13) -> Path:
    with path.open("w") as file:
        for row in range(count):
            word = WORDS[row % len(WORDS)]
            passages = [{"title": word, "text": f"the {word} number {row}"}]
            negatives = [{"title": "", "text": f"the {other}"} for other in WORDS[row % 3 : 5]]
            entry = {
                "query": f"where is {word} {row}",
                "positive_passages": passages,
                "negative_passages": negatives if row % 4 else [],
            }
            file.write(json.dumps(entry) + "\n")
    return path


def contrastive_learner(
    directory: Path, plain: Path, negatives: str, fit: FitConfig = FIT
) -> ContrastiveLearner:
    retriever = BiEncoder.from_pretrained(plain, settings=DOT)
    retriever.set_dropout(0.0)
    cfg = replace(CONTRASTIVE, negatives=negatives)
    store = PassageStore.open(directory / "passages.jsonl")
    sampler = PairSampler([store], retriever.query_tokenizer, cfg, fit.batch_size, fit.seed)
    return ContrastiveLearner(retriever, sampler, cfg)


def supervised_learner(directory: Path, plain: Path, fit: FitConfig = FIT) -> SupervisedLearner:
    retriever = BiEncoder.from_pretrained(plain, settings=DOT, tied=False)
    retriever.set_dropout(0.0)
    questions = JudgedQuestions(directory / "questions.jsonl")
    sampler = QuestionSampler(questions, fit.batch_size, 1, fit.seed)
    return SupervisedLearner(retriever, sampler, SupervisedConfig(hard_negatives=1))


def fit_learner(rank: int, size: int, directory: Path, plain: str, kind: str) -> dict:
    """Return the trained weights, the same on every process, and on process 0 the losses."""
    if kind == "dpr":
        learner = supervised_learner(directory, Path(plain))
    else:
        learner = contrastive_learner(directory, Path(plain), kind)
    losses: list[float] = []
    checkpoints = PretrainCheckpoints(directory / f"checkpoints-{kind}-{size}", {})
    fit_resumably(
        learner, FIT, checkpoints, log=lambda step, metrics: losses.append(metrics["loss"])
    )
    return {"losses": torch.tensor(losses), **learner.module.state_dict()}
