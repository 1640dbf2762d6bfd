"""The retriever: one stock transformers encoder, or two, for queries and for passages.

With E_q and E_p the embeddings, `BiEncoder.score` is s = E_q(q) . E_p(d) / sqrt(dim) for
similarity "dot" and the cosine itself for "cosine". Models are held, never subclassed.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from atlas_lm.passages.format import format_passage
from atlas_lm.retriever import saving
from atlas_lm.retriever.digest import encoder_digest
from atlas_lm.retriever.embedding import EmbeddingReport, embed_texts
from atlas_lm.retriever.loading import Tower, load_tower, local_directory
from atlas_lm.retriever.settings import EncoderSettings
from atlas_lm.runtime import distributed
from atlas_lm.runtime.checkpointing import checkpoint_activations_
from atlas_lm.runtime.dropout import set_dropout_
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.files import atomic_directory
from atlas_lm.runtime.modes import evaluating
from atlas_lm.types import Passage


class BiEncoder(nn.Module):
    """Queries and passages to embeddings, by one encoder (tied) or by two.

    Args:
        query: The query tower, and the passage tower too where ``passage`` is None.
        settings: How text becomes a vector.
        passage: The passage tower of an untied retriever.
    """

    def __init__(
        self, query: Tower, settings: EncoderSettings, passage: Tower | None = None
    ) -> None:
        super().__init__()
        if passage is not None and passage.dim != query.dim:
            raise InputError(
                f"the query encoder has {query.dim} components, that of passages {passage.dim}; "
                "give two encoders of one dimension"
            )
        self.settings = settings
        self.towers = nn.ModuleDict({"query": query.encoder})
        self.query_tokenizer: PreTrainedTokenizerBase = query.tokenizer
        self.passage_tokenizer: PreTrainedTokenizerBase = (passage or query).tokenizer
        if passage is not None:
            self.towers["passage"] = passage.encoder
        self.passage_encoder_is_frozen = False

    @property
    def tied(self) -> bool:
        """Whether one encoder embeds both queries and passages."""
        return "passage" not in self.towers

    @property
    def query_encoder(self) -> PreTrainedModel:
        """The encoder of queries."""
        return self.towers["query"]

    @property
    def passage_encoder(self) -> PreTrainedModel:
        """The encoder of passages; the query encoder itself where tied."""
        return self.towers["query" if self.tied else "passage"]

    @property
    def dim(self) -> int:
        """The number of components of an embedding."""
        return int(self.query_encoder.config.hidden_size)

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return next(self.parameters()).device

    def forward(
        self, query: Sequence[str], passages: Sequence[Sequence[Passage]]
    ) -> Float[Tensor, "bsz n_context"]:
        """Return `score`."""
        return self.score(query, passages)

    def score(
        self, query: Sequence[str], passages: Sequence[Sequence[Passage]]
    ) -> Float[Tensor, "bsz n_context"]:
        """Return the retriever score of each query with each of its passages, with gradient.

        Dot: E_q . E_p / sqrt(dim). Cosine: the cosine, not divided by anything. A passage that
        occurs more than once in the batch is encoded once.

        Raises:
            InputError: the queries have different numbers of passages.
        """
        counts = {len(row) for row in passages}
        if len(query) != len(passages) or len(counts) > 1:
            raise InputError(
                f"score: {len(query)} queries with {[len(row) for row in passages]} passages; "
                "give every query the same number"
            )
        query_emb = self.embed_queries(query)
        passage_emb = self.embed_passages([passage for row in passages for passage in row])
        passage_emb = passage_emb.view(len(query), max(counts, default=0), self.dim)
        product = (query_emb[:, None] * passage_emb).sum(dim=-1)
        return product if self.settings.similarity == "cosine" else product / self.dim**0.5

    def embed_queries(
        self, query: Sequence[str], *, batch_tokens: int | None = None
    ) -> Float[Tensor, "bsz dim"]:
        """Return the embeddings of queries in float32; gradient follows torch's mode."""
        return embed_texts(
            self.query_encoder,
            self.query_tokenizer,
            [self.settings.query_text(text) for text in query],
            self.settings,
            maxlength=self.settings.query_maxlength,
            batch_tokens=batch_tokens,
        )

    def embed_passages(
        self,
        passages: Sequence[Passage],
        *,
        batch_tokens: int | None = None,
        report: EmbeddingReport | None = None,
    ) -> Float[Tensor, "n dim"]:
        """Return the embeddings of passages in float32; gradient follows torch's mode."""
        return embed_texts(
            self.passage_encoder,
            self.passage_tokenizer,
            [self.passage_text(passage) for passage in passages],
            self.settings,
            maxlength=self.settings.passage_maxlength,
            batch_tokens=batch_tokens,
            report=report,
        )

    def passage_text(self, passage: Passage) -> str:
        """Return the text that is embedded for a passage."""
        text = format_passage(self.settings.passage_template, passage)
        return self.settings.cased(self.settings.passage_prompt + text)

    def embed_corpus(
        self,
        passages: Sequence[Passage],
        *,
        batch_tokens: int | None = None,
        autocast: torch.dtype | None = None,
        report: EmbeddingReport | None = None,
    ) -> Float[Tensor, "n dim"]:
        """Return the embeddings of many passages, in order: eval mode, no gradient, float32.

        Args:
            passages: As many as fit into memory with their embeddings; see `embed_chunks`.
            batch_tokens: Padded tokens encoded at a time; None takes what suits the device.
            autocast: Encode under autocast to this dtype, such as ``torch.bfloat16``.
            report: Counters to add to: passages, tokens, padding, truncated passages.
        """
        embeddings = torch.empty((len(passages), self.dim), device=self.device)
        enabled = autocast is not None
        with (
            evaluating(self),
            torch.no_grad(),
            torch.inference_mode(not distributed.is_sharded(next(self.parameters()))),
            torch.autocast(self.device.type, dtype=autocast or torch.bfloat16, enabled=enabled),
        ):
            embeddings.copy_(
                self.embed_passages(passages, batch_tokens=batch_tokens, report=report)
            )
        return embeddings

    def embed_chunks(
        self,
        chunks: Iterable[Sequence[Passage]],
        *,
        batch_tokens: int | None = None,
        autocast: torch.dtype | None = None,
        report: EmbeddingReport | None = None,
    ) -> Iterator[Float[Tensor, "n dim"]]:
        """Yield `embed_corpus` of each chunk, so that a corpus need not fit into memory.

        Lengths are sorted within a chunk; a few thousand passages leave next to no padding.
        """
        for chunk in chunks:
            yield self.embed_corpus(
                chunk, batch_tokens=batch_tokens, autocast=autocast, report=report
            )

    def untie(self) -> BiEncoder:
        """Give passages an encoder of their own, a copy of the query encoder; return self."""
        if self.tied:
            self.towers["passage"] = copy.deepcopy(self.query_encoder)
            self.passage_tokenizer = copy.deepcopy(self.query_tokenizer)
        return self

    def freeze_passage_encoder(self) -> BiEncoder:
        """Stop the passage encoder from learning (query-side fine-tuning); return self.

        It has no gradient and stays in eval mode whatever `train` is told.

        Raises:
            InputError: the encoders are tied, so the query encoder would freeze with it.
        """
        if self.tied:
            raise InputError(
                "the encoders are tied: freezing that of passages would freeze that of queries "
                "too; call untie() first"
            )
        self.passage_encoder.requires_grad_(False)
        self.passage_encoder_is_frozen = True
        return self.train(self.training)

    def train(self, mode: bool = True) -> BiEncoder:
        """Put the encoders into training mode, a frozen passage encoder into eval mode."""
        super().train(mode)
        if self.passage_encoder_is_frozen:
            self.passage_encoder.eval()
        return self

    def enable_gradient_checkpointing(self, enabled: bool = True) -> None:
        """Trade time for memory: recompute activations in the backward pass."""
        for encoder in (self.query_encoder, self.passage_encoder):
            checkpoint_activations_(encoder, enabled)

    def set_dropout(self, p: float) -> None:
        """Set every dropout probability of the encoders, attention's too, in [0, 1); not saved."""
        set_dropout_(self.towers, p)

    def fingerprint(self, corpus: str) -> dict[str, Any]:
        """Return what an index over ``corpus`` (its fingerprint) by the passage encoder carries.

        Equal fingerprints mean equal passage embeddings.
        """
        settings = self.settings
        case = " (lower case)" if settings.lowercase else ""
        return {
            "encoder": encoder_digest(
                Tower(self.passage_encoder, self.passage_tokenizer), settings
            ),
            "template": settings.passage_prompt + settings.passage_template + case,
            "pooling": settings.pooling + (", unit length" if settings.unit_length else ""),
            "similarity": settings.similarity,
            "max_length": settings.passage_maxlength,
            "dim": self.dim,
            "corpus": corpus,
        }

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        settings: EncoderSettings | Mapping[str, Any] | None = None,
        tied: bool | None = None,
        passage: str | Path | None = None,
    ) -> BiEncoder:
        """Open a retriever, in eval mode.

        Args:
            name_or_path: A directory of ours, of transformers or of sentence-transformers; a Hub
                id of one of these; or ``package:NAME``.
            settings: In the stead of what the directory states: all of it, or single values by
                name. Pooling and similarity are required where the directory states neither.
            tied: False gives passages an encoder of their own; None keeps what was saved.
            passage: Another directory or id for the passage encoder, as of DPR.

        Raises:
            InputError: there is no such model, it does not say how it pools or compares, its
                weights are pickled or incomplete, or it has two encoders and ``tied`` is true.
        """
        query_tower, passage_tower, chosen = saving.open_towers(name_or_path, settings)
        if passage is not None:
            passage_tower = load_tower(local_directory(passage), chosen)
        if tied and passage_tower is not None:
            raise InputError(f"{name_or_path}: has two encoders, so tied=True is not possible")
        encoder = cls(query_tower, chosen, passage_tower)
        return (encoder.untie() if tied is False else encoder).eval()

    def save_pretrained(self, path: str | Path) -> None:
        """Write transformers directories and ``bi_encoder.json``; all of it appears or nothing.

        Tied: the weights lie in ``path`` itself. Untied: in ``query/`` and ``passage/``.

        Raises:
            InputError: ``path`` holds something other than a saved bi-encoder.
        """
        path = Path(path)
        is_taken = path.is_file() or (path.is_dir() and any(path.iterdir()))
        if is_taken and not (path / saving.SETTINGS_FILE).is_file():
            raise InputError(f"{path}: exists and is no saved bi-encoder; choose another directory")
        with atomic_directory(path) as temporary:
            query, passage = ("", "") if self.tied else saving.TOWERS
            saving.save_tower(Tower(self.query_encoder, self.query_tokenizer), temporary / query)
            if not self.tied:
                tower = Tower(self.passage_encoder, self.passage_tokenizer)
                saving.save_tower(tower, temporary / passage)
            saving.write_settings(temporary, self.settings, tied=self.tied)
