"""A world of twelve passages and a model in two halves, small enough to check by hand."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from atlas_lm.index import FlatIndex
from atlas_lm.index.files import Fingerprint
from atlas_lm.objectives import ObjectiveConfig, make_objective
from atlas_lm.runtime.phases import untimed
from atlas_lm.staleness import LiveIndex, StalenessConfig, keep_fresh
from atlas_lm.training import Checkpoints, OptimConfig, TrainingConfig, new_state, train
from atlas_lm.types import Example, Losses, Measured, Passage, ReaderSignals, TokenLoss
from tests.staleness.world import Store

DIM = 6
N_PASSAGES = 12


class FakeLauncher:
    """Embeds "elsewhere": a job is done after so many looks at it, with the copied weights."""

    def __init__(self, retriever, looks=2):
        self.retriever, self.looks = retriever, looks
        self.launched = []

    def copy_weights(self):
        return {"weight": self.retriever.passages.weight.detach().clone()}

    def launch(self, job, *, again):
        self.launched.append((job.step, again))
        return FakeWorker(job, self.looks)


class FakeWorker:
    def __init__(self, job, looks):
        self.job, self.looks = job, looks
        self.stopped = self.cleared = False

    def is_done(self):
        self.looks -= 1
        return self.looks < 0

    def vectors(self):
        return self.job.weights["weight"].clone()

    def stop(self):
        self.stopped = True

    def clear(self):
        self.cleared = True


class FakeRetriever(nn.Module):
    def __init__(self):
        super().__init__()
        self.queries = nn.Embedding(40, DIM)
        self.passages = nn.Embedding(N_PASSAGES, DIM)
        self.dropout = nn.Dropout(0.1)

    def embed_passages(self, rows):
        return self.passages(torch.as_tensor(rows))

    def embed_queries(self, query):
        return self.queries(torch.tensor([int(text) for text in query]))

    def embed_corpus(self, passages):
        with torch.no_grad():
            return self.embed_passages([int(passage.id) for passage in passages])

    def set_dropout(self, p):
        self.dropout.p = p

    def enable_gradient_checkpointing(self):
        self.checkpointing = True


class FakeReader(nn.Module):
    def __init__(self):
        super().__init__()
        self.taste = nn.Linear(DIM, N_PASSAGES)
        self.norm = nn.LayerNorm(DIM)
        self.dropout = nn.Dropout(0.1)
        self.dropout_set = None

    def set_dropout(self, p):
        self.dropout.p = p

    def enable_gradient_checkpointing(self):
        self.checkpointing = True


class FakeAtlas:
    """Retrieves from a possibly stale index, reads one passage as a vector, learns from both."""

    def __init__(self, seed=0, topk=4):
        torch.manual_seed(seed)
        self.reader = FakeReader()
        self.retriever = FakeRetriever()
        self.topk = topk
        self.objective = make_objective(
            ObjectiveConfig(temperature_score=1.0, temperature_gold=1.0)
        )
        self.index = FlatIndex(
            self.retriever.passages.weight.detach().clone(), fingerprint=self.fingerprint()
        )
        self.store = Store(Passage(str(row), "text") for row in range(N_PASSAGES))
        self.poisoned = frozenset()
        self.calls = []

    def fingerprint(self):
        encoder = str(self.retriever.passages.weight.double().sum().item())
        return Fingerprint(encoder, "{text}", "mean", "dot", 16, DIM, "corpus")

    def keeper(self, staleness, cfg, launcher=None):
        """What keeps the index fresh, as `cli.joint` makes it."""
        return keep_fresh(
            LiveIndex(self.index, self.store, self.retriever, self.fingerprint),
            staleness,
            launcher or FakeLauncher(self.retriever),
            topk=self.topk,
            freeze_retriever_steps=cfg.freeze_retriever_steps,
        )

    def losses(self, batch, *, train_retriever, phases=untimed):
        self.calls.append(([example.id for example in batch.examples], train_retriever))
        if not train_retriever:
            return self.read(batch)
        with phases("encode"):
            read = self.read(batch)
        loss, metrics = self.retriever_loss(read.measured)
        return replace(read, retriever_total=loss, metrics=metrics)

    def measure(self, batch, *, phases=untimed):
        self.calls.append(([example.id for example in batch.examples], "measured"))
        return self.read(batch)

    def read(self, batch):
        asked = torch.tensor([int(example.query) for example in batch.examples])
        length = torch.tensor([int(example.target) for example in batch.examples])
        query_emb = self.retriever.queries(asked)
        rows = (query_emb.detach() @ self.index.embeddings.float().T).topk(self.topk).indices
        states = self.reader.norm(self.reader.dropout(query_emb.detach()))
        log_likelihood = self.reader.taste(states).log_softmax(-1)
        nats = -log_likelihood[torch.arange(len(asked)), asked % N_PASSAGES] * length
        if self.poisoned & {example.id for example in batch.examples}:
            nats = nats * torch.nan
        reader = TokenLoss(nats.sum(), int(length.sum()))
        signals = ReaderSignals(
            torch.ones(len(asked), 1, dtype=torch.bool),
            passage_log_likelihood=log_likelihood.detach().gather(1, rows).unsqueeze(-1),
        )
        passages = tuple(tuple(self.store.passages(found)) for found in rows.tolist())
        measured = Measured(batch.ids, tuple(batch.query), passages, signals)
        return Losses(reader, None, len(batch), rows=rows, measured=measured)

    def retriever_loss(self, measured):
        query_emb = self.retriever.embed_queries(measured.query)
        rows = [[int(passage.id) for passage in found] for found in measured.passages]
        passage_emb = self.retriever.dropout(self.retriever.embed_passages(rows))
        score = torch.einsum("qd,qkd->qk", query_emb, passage_emb)
        loss = self.objective.loss(score, measured.signals).sum()
        return loss, self.objective.diagnostics(score.detach(), measured.signals)


def examples(n=10):
    return [Example(f"e{number}", str(number), str(1 + number % 3)) for number in range(n)]


def config(**values):
    optim = OptimConfig(lr=0.05, warmup_steps=2, weight_decay=0.1)
    defaults = {
        "total_steps": 8,
        "bsz": 2,
        "accumulation_steps": 2,
        "reader": optim,
        "retriever": optim,
        "log_every": 1,
    }
    return TrainingConfig(**(defaults | values))


@dataclass
class Run:
    """One run in the tiny world."""

    model: FakeAtlas
    state: object
    outcome: object
    log: list


def run(
    path,
    cfg,
    *,
    schedule="0-:3",
    resume=False,
    model=None,
    evaluate=None,
    data=None,
    staleness=None,
    launcher=None,
    after=None,
):
    """Train in ``path`` from the start, or from the newest checkpoint there."""
    model = model or FakeAtlas()
    staleness = staleness or StalenessConfig(refresh_schedule=schedule)
    freshness = model.keeper(staleness, cfg, launcher)
    state = new_state(model, data or examples(), cfg, freshness=freshness)
    checkpoints = Checkpoints(path, keep_last=cfg.keep_last)
    if resume:
        checkpoints.load(state)
    log = []
    outcome = train(
        state,
        cfg,
        checkpoints=checkpoints,
        log=lambda step, metrics: log.append((step, dict(metrics))),
        evaluate=evaluate,
        after_step=after,
    )
    return Run(model, state, outcome, log)


def all_tensors(state):
    """Every tensor of a state, flat, as independent copies."""
    return {
        f"{file}/{name}": tensor.clone()
        for file, tensors in state.tensors().items()
        for name, tensor in tensors.items()
    }
