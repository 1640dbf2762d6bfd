"""Atlas: a retriever and a reader that are fine-tuned together against an index.

`Atlas.losses` is the paper's training step in six lines; `Atlas.answer` is its inference.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from atlas_lm.index import Index, open_index
from atlas_lm.index.files import Fingerprint
from atlas_lm.index.sharded import open_sharded
from atlas_lm.objectives import ObjectiveConfig, make_objective
from atlas_lm.objectives.control import dealt_out
from atlas_lm.objectives.pooled import foreign, widened_score, widened_signals
from atlas_lm.passages.filters import Filter
from atlas_lm.passages.store import PassageStore
from atlas_lm.reader import open_reader
from atlas_lm.retrieve import (
    ContextConfig,
    filtered_rows,
    given_passages,
    n_findable,
    no_passages,
    retrieve,
    withheld,
)
from atlas_lm.retriever import BiEncoder
from atlas_lm.retriever.embedding import inner_products
from atlas_lm.runtime import distributed
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.files import read_table, write_json
from atlas_lm.runtime.packages import packaged
from atlas_lm.runtime.phases import Phases, untimed
from atlas_lm.runtime.structure import structure, unstructure
from atlas_lm.runtime.weights import directory_of_process_0
from atlas_lm.tasks import TaskConfig, make_task
from atlas_lm.types import (
    Batch,
    Generated,
    Generation,
    Losses,
    Measured,
    Passage,
    Reader,
    ReaderSignals,
    Retrieved,
    TokenLoss,
)
from atlas_lm.writing import write

FORMAT_VERSION = 1
KEPT_FILTERS = 16
"""Masks of rows kept in memory, a byte a passage each."""
SPARE = 24
"""Passages found beyond those asked for, to replace the ones that an overlap guard leaves out."""


@dataclass(frozen=True, kw_only=True)
class AtlasConfig:
    """All that a saved model must remember beside its two halves."""

    task: TaskConfig = field(default_factory=TaskConfig)
    context: ContextConfig = field(default_factory=ContextConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    generation: Generation = field(default_factory=Generation)


@dataclass(frozen=True)
class Source:
    """One passage behind an answer."""

    passage: Passage
    score: float
    """Retrieval score."""
    attention_share: float
    """Share of the reader's attention mass that fell on this passage while answering; sums to 1."""


@dataclass(frozen=True)
class Answer:
    """An answer with what it rests on."""

    text: str
    log_prob: float
    """Sum of the log-probabilities of the answer's tokens, in nats."""
    sources: tuple[Source, ...]


class Atlas:
    """Retriever, reader and index in one object.

    Example:
        >>> atlas = Atlas.from_pretrained("runs/quickstart/model", index="runs/quickstart/index")
        >>> atlas.answer("Who painted the Mona Lisa?").text
    """

    def __init__(
        self,
        retriever: BiEncoder | None,
        reader: Reader | None,
        config: AtlasConfig | None = None,
    ) -> None:
        self.retriever = retriever
        self._reader = reader
        self.config = config or AtlasConfig()
        self.objective = make_objective(self.config.objective)
        self.task = make_task(self.config.task)
        self.index: Index | None = None
        self.store: PassageStore | None = None
        self._allowed: dict[Filter, Bool[Tensor, " n"] | None] = {}

    def losses(self, batch: Batch, *, train_retriever: bool, phases: Phases = untimed) -> Losses:
        """Return both halves' losses on a batch, as sums with their counts."""
        if not train_retriever:
            with phases("retrieve"):
                retrieved = self.retrieve(batch, self.config.context.n_context)
            with phases("encode"):
                inputs = self.reader.collate(batch.query, retrieved.passages)
                loss = self.reader.loss(inputs, batch.target)
            return Losses(loss, None, len(batch), metrics=retrieved.metrics, rows=retrieved.rows)
        read = self.measure(batch, phases=phases)
        assert read.measured is not None
        with phases("score"):
            retriever_loss, metrics = self.retriever_loss(read.measured)
        return replace(read, retriever_total=retriever_loss, metrics={**read.metrics, **metrics})

    def accompany(self, *, train_retriever: bool) -> Losses:
        """Search for no query, so that a sharded index can be searched for those of others."""
        context = self.config.context
        topk = context.retriever_n_context if train_retriever else context.n_context
        rows = self.retrieve(Batch(()), topk).rows
        if train_retriever and self.config.objective.pool_candidates:
            distributed.gather(torch.zeros((0, self.trained_retriever.dim), device=rows.device))
            distributed.gather_json(())
        return Losses(TokenLoss(torch.zeros((), device=self.reader.device), 0), None, 0, rows=rows)

    def measure(self, batch: Batch, *, phases: Phases = untimed) -> Losses:
        """Return the reader's loss, and what it makes of each passage: no gradient to them."""
        context = self.config.context
        with phases("retrieve"):
            retrieved = self.retrieve(batch, context.retriever_n_context)
        with phases("encode"):
            reading = self.reader.read(
                self.reader.collate(batch.query, retrieved.passages),
                batch.target,
                n_context=context.n_context,
                measure=frozenset({self.objective.needs}),
                logit_temperature=self.objective.logit_temperature,
                phases=phases,
            )
        return Losses(
            reading.loss,
            None,
            len(batch),
            metrics=retrieved.metrics,
            rows=retrieved.rows,
            measured=Measured(
                batch.ids,
                tuple(batch.retriever_query),
                retrieved.passages,
                reading.signals,
                withheld(batch, retrieved),
            ),
        )

    def retriever_loss(self, measured: Measured) -> tuple[Tensor, dict[str, float]]:
        """Return the objective's loss and diagnostics, summed over queries; fresh encoders."""
        if self.config.objective.shuffle_signals:
            measured = replace(measured, signals=dealt_out(measured.signals, measured.ids))
        retriever_score = self.trained_retriever.score(measured.query, measured.passages)
        signals = measured.signals
        if self.config.objective.pool_candidates:
            retriever_score, signals = self._with_pool(retriever_score, measured)
        loss = self.objective.loss(retriever_score, signals).sum()
        return loss, self.objective.diagnostics(retriever_score.detach(), signals)

    def _with_pool(
        self, retriever_score: Tensor, measured: Measured
    ) -> tuple[Tensor, ReaderSignals]:
        """Return scores and signals over the passages of all queries of all processes too."""
        retriever = self.trained_retriever
        found = [passage for row in measured.passages for passage in row]
        with torch.no_grad():
            passage_emb = retriever.embed_passages(found)
        pool = torch.cat(distributed.gather(passage_emb))
        named = [(passage.id, _digest(retriever.passage_text(passage))) for passage in found]
        gathered = distributed.gather_json(named)
        ids, texts = zip(*(one for part in gathered for one in part), strict=True)
        pool_score = inner_products(retriever.embed_queries(measured.query), pool)
        if retriever.settings.similarity != "cosine":
            pool_score = pool_score / retriever.dim**0.5
        hidden_of = measured.withheld or (frozenset(),) * len(measured.passages)
        known = [
            {passage.id for passage in row} | hidden
            for row, hidden in zip(measured.passages, hidden_of, strict=True)
        ]
        wide = widened_score(retriever_score, pool_score, foreign(known, ids, texts))
        return wide, widened_signals(measured.signals, len(ids))

    def retrieve(
        self,
        asked: Batch | str | Sequence[str],
        topk: int | None = None,
        *,
        where: str | None = None,
        as_of: str | None = None,
    ) -> Retrieved:
        """Return the best passages of every query, best first.

        They come from the index, from the data file or from nowhere, as the configuration says.

        Args:
            asked: a batch, a question or several.
            topk: passages per query; the configuration's ``n_context`` if None.
            where: only passages that satisfy this condition; the configuration's if None.
            as_of: only passages valid on this date; the configuration's if None.

        Raises:
            InputError: no index is open, it holds fewer than ``topk`` passages, or that is below 1.
        """
        batch = asked if isinstance(asked, Batch) else self.ask(asked)
        context = self.config.context
        asked_for = replace(
            context,
            where=context.where if where is None else where,
            as_of=context.as_of if as_of is None else as_of,
        )
        topk = context.n_context if topk is None else topk
        if topk < 1:
            raise InputError(f"topk={topk}: retrieve at least one passage")
        if context.passages_from == "none":
            return no_passages(batch)
        if context.passages_from == "file":
            return given_passages(batch, topk)
        if self.index is None or self.store is None:
            raise InputError("no index is open; build one with atlas-lm index build and pass it")
        return retrieve(
            batch,
            retriever=self.trained_retriever,
            index=self.index,
            store=self.store,
            topk=topk,
            n_rerank=context.n_rerank,
            allowed_rows=self.allowed_rows(asked_for.filter),
            spare=self._spare(topk),
        )

    def _spare(self, topk: int) -> int:
        """Return how many passages are found beyond ``topk`` for the overlap guard."""
        if not self.config.task.pretext.overlap:
            return 0
        return max(min(SPARE, self.n_findable // 2 - topk), 0)

    def allowed_rows(self, wanted: Filter | None = None) -> Bool[Tensor, " n"] | None:
        """Return True for the rows that a filter lets be found; None where all may be.

        Args:
            wanted: the filter; the configuration's if None.

        Raises:
            InputError: no passage has a field that the filter names, or none satisfies it.
        """
        if self.store is None:
            return None
        wanted = self.config.context.filter if wanted is None else wanted
        if wanted not in self._allowed:
            if len(self._allowed) >= KEPT_FILTERS:
                self._allowed.clear()
            self._allowed[wanted] = filtered_rows(self.store, wanted)
        return self._allowed[wanted]

    @property
    def n_findable(self) -> int:
        """Passages that a search may return: neither deleted nor filtered out; 0 without index."""
        if self.index is None or self.store is None:
            return 0
        return n_findable(self.store, self.allowed_rows())

    def ask(self, question: str | Sequence[str]) -> Batch:
        """Return questions of one's own as a batch, in the words of the model's task."""
        questions = [question] if isinstance(question, str) else list(question)
        return Batch(tuple(self.task.ask(text, id=str(n)) for n, text in enumerate(questions)))

    def answer(self, question: str) -> Answer:
        """Return the answer to one question with its log-probability and its passages."""
        batch = self.ask(question)
        retrieved = self.retrieve(batch)
        inputs = self.reader.collate(batch.query, retrieved.passages)
        generated = write(self.reader, batch, inputs, self.config.generation, self.task)
        share = self.reader.attention_share(inputs, generated)
        sources = zip(
            retrieved.passages[0], retrieved.scores[0].tolist(), share[0].tolist(), strict=True
        )
        return Answer(
            self.task.answer(generated[0].text),
            generated[0].log_prob,
            tuple(Source(*source) for source in sources),
        )

    def generate(self, batch: Batch, retrieved: Retrieved) -> list[Generated]:
        """Write one answer for each query from the first ``n_context`` passages retrieved."""
        passages = retrieved.first(self.config.context.n_context).passages
        inputs = self.reader.collate(batch.query, passages)
        written = write(self.reader, batch, inputs, self.config.generation, self.task)
        return [replace(answer, text=self.task.answer(answer.text)) for answer in written]

    def with_config(self, config: AtlasConfig) -> Atlas:
        """Return the same halves and index under another configuration."""
        atlas = Atlas(self.retriever, self._reader, config)
        atlas.index, atlas.store = self.index, self.store
        return atlas

    def to(self, device: str | torch.device) -> Atlas:
        """Move both halves to ``device`` and return this object."""
        for half in (self.retriever, self._reader):
            if isinstance(half, nn.Module):
                half.to(device)
        return self

    @property
    def reader(self) -> Reader:
        """The reader, which must be there.

        Raises:
            InputError: the model was opened to retrieve only.
        """
        if self._reader is None:
            raise InputError("this model has no reader; give one with --reader")
        return self._reader

    @property
    def trained_retriever(self) -> BiEncoder:
        """The retriever, which must be there.

        Raises:
            InputError: the model is closed book or reads given passages only.
        """
        if self.retriever is None:
            raise InputError("this model has no retriever; give one with --retriever")
        return self.retriever

    def open_index(
        self,
        path: str | Path | Sequence[str | Path],
        *,
        device: str | torch.device = "cpu",
        shared: bool = False,
    ) -> None:
        """Open the index at ``path`` for this model; several are searched as one.

        Of passages with equal ids in several indexes only the one in the last is found. Where it is
        ``shared``, each process of the run holds a part of its rows, and all search together.

        Raises:
            InputError: it was made by another encoder, template, pooling or length, or from
                another corpus; the message names the field that differs.
        """
        opening: Callable[..., tuple[Any, PassageStore]] = open_sharded if shared else open_index
        index, store = opening(path, device=device)
        try:
            index.fingerprint.check(self.fingerprint(store))
        except InputError as error:
            place = path if isinstance(path, str | Path) else ", ".join(map(str, path))
            raise InputError(f"{place}: {error}") from error
        self.index, self.store = index, store
        self._allowed.clear()

    def fingerprint(self, store: PassageStore) -> Fingerprint:
        """Return what an index over ``store`` by this model's passage encoder must carry."""
        return Fingerprint(**self.trained_retriever.fingerprint(store.fingerprint))

    @classmethod
    def from_pretrained(
        cls, path: str | Path, *, index: str | Path | Sequence[str | Path] | None = None
    ) -> Atlas:
        """Open a saved model and, where given, its index or indexes.

        ``package:atlas-lm/NAME`` is a model that ships with the package.

        Raises:
            InputError: ``path`` is not a model directory, or the index belongs to another model.
        """
        path = Path(packaged(str(path)))
        config = cls.saved_config(path)
        has_retriever = (path / "retriever").is_dir()
        retriever = BiEncoder.from_pretrained(path / "retriever") if has_retriever else None
        atlas = cls(retriever, open_reader(path / "reader"), config)
        if index is not None:
            atlas.open_index(index)
        return atlas

    @staticmethod
    def saved_config(path: str | Path) -> AtlasConfig:
        """Return the configuration of a saved model.

        Raises:
            InputError: ``path`` is not a model directory of this format.
        """
        file = Path(packaged(str(path))) / "atlas.json"
        saved = read_table(file, what="a model saved by atlas-lm")
        if saved.pop("format_version", None) != FORMAT_VERSION:
            raise InputError(f"{file}: format_version is not {FORMAT_VERSION}")
        return structure(saved, AtlasConfig, place=str(file))

    def save_pretrained(self, path: str | Path) -> None:
        """Write ``atlas.json`` and both halves; the directory appears whole or not at all.

        Of several processes the first writes, and all must call: see `plain_state`.

        ``reader/`` and ``retriever/`` are ordinary transformers directories.
        """
        with directory_of_process_0(path) as temporary:
            self.reader.save_pretrained(temporary / "reader")
            if self.retriever is not None:
                self.retriever.save_pretrained(temporary / "retriever")
            write_json(
                temporary / "atlas.json",
                {"format_version": FORMAT_VERSION, **unstructure(self.config)},
            )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
