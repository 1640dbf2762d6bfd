"""The values that travel between stations. Frozen; shapes in the field's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.phases import Phases, untimed

Signal = Literal["passage_log_likelihood", "leave_one_out", "attention_mass"]
"""What a reader can be asked about each passage; see `ReaderSignals`."""


@dataclass(frozen=True)
class Passage:
    """One retrievable unit of text."""

    id: str
    text: str
    title: str = ""
    section: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def heading(self) -> str:
        """The title, followed by ``: section`` where there is one."""
        return f"{self.title}: {self.section}" if self.section else self.title

    def record(self) -> dict[str, Any]:
        """Return the passage as a row of a file; read again, it is an equal passage."""
        section = {"section": self.section} if self.section else {}
        own = {"id": self.id, "title": self.title, **section, "text": self.text}
        return {**own, **self.metadata}


@dataclass(frozen=True)
class Overlap:
    """A text that a passage may not give away."""

    text: str
    words: int
    """A passage that shares a run of so many words with the text repeats it."""


@dataclass(frozen=True)
class Example:
    """One item of a task: what is asked, what should be written, what may not be retrieved."""

    id: str
    query: str
    target: str
    answers: tuple[str, ...] = ()
    excluded_passage_ids: frozenset[str] = frozenset()
    gold_passage_ids: frozenset[str] = frozenset()
    passages: tuple[Passage, ...] | None = None
    """Given passages from the data file; None where the file gives none."""
    choices: tuple[str, ...] = ()
    """Targets to choose among; empty where the answer is free."""
    options: tuple[str, ...] = ()
    """The answer that each of ``choices`` stands for; two may be equal."""
    sought: str = ""
    """What the retriever is asked where that is not ``query``; see `retriever_query`."""
    unworded: str = ""
    """What is asked, before any wording, where that is not what the retriever is asked."""
    overlap: Overlap | None = None
    """Passages that repeat this text are not shown; None: any may be."""
    measures: tuple[str, ...] = ("exact_match", "f1", "rouge_l", "recall")
    """What an answer is measured by; ``recall``: passages that contain an answer count as found."""
    provenance: tuple[frozenset[str], ...] = ()
    """Sets of pages (``wikipedia_id``), each of which is evidence enough."""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def retriever_query(self) -> str:
        """What the retriever is asked."""
        return self.sought or self.query

    def renamed(self, id: str) -> Example:
        """Return the same example under another id."""
        return replace(self, id=id)


@dataclass(frozen=True)
class Batch:
    """Examples processed together."""

    examples: tuple[Example, ...]

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the examples, in order."""
        return tuple(example.id for example in self.examples)

    @property
    def query(self) -> list[str]:
        """The queries, in order."""
        return [example.query for example in self.examples]

    @property
    def retriever_query(self) -> list[str]:
        """What the retriever is asked, in order."""
        return [example.retriever_query for example in self.examples]

    @property
    def target(self) -> list[str]:
        """The targets, in order."""
        return [example.target for example in self.examples]

    def __len__(self) -> int:
        return len(self.examples)


@dataclass(frozen=True)
class Retrieved:
    """The passages found for a batch, best first. Every query has the same number of them."""

    passages: tuple[tuple[Passage, ...], ...]
    scores: Float[Tensor, "bsz n_context"]
    rows: Int64[Tensor, "bsz n_context"]
    leaked: tuple[bool, ...] = ()
    """Whether passages were left out for each query because they repeat its `Overlap`; empty where
    no query has one."""
    repeating: tuple[frozenset[str], ...] = ()
    """Ids of the passages found for each query that repeat its `Overlap`; empty as above."""

    @property
    def metrics(self) -> dict[str, float]:
        """``leaked``: for how many queries passages were left out; nothing without guards."""
        return {"leaked": float(sum(self.leaked))} if self.leaked else {}

    def first(self, n_context: int) -> Retrieved:
        """Keep the best ``n_context`` passages of every query."""
        return Retrieved(
            tuple(passages[:n_context] for passages in self.passages),
            self.scores[:, :n_context],
            self.rows[:, :n_context],
            self.leaked,
            self.repeating,
        )


@dataclass(frozen=True)
class SearchResult:
    """What an index returns: scores, best first, and rows. Never text."""

    scores: Float[Tensor, "bsz topk"]
    rows: Int64[Tensor, "bsz topk"]


@dataclass(frozen=True)
class Tokens:
    """Integer tokens and their mask (True where a token is real).

    Pads are on the right, but for `reader.generation.left_padded`, whose prompts go on at the end.
    """

    ids: Int64[Tensor, "... length"]
    mask: Bool[Tensor, "... length"]

    @classmethod
    def padded(cls, rows: Sequence[Sequence[int]], pad_id: int = 0) -> Tokens:
        """Return ragged rows as one block ``[rows length]``, padded to the longest; 0 0 of none."""
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
        longest = max(map(len, rows), default=0)
        mask: Tensor = torch.arange(longest) < lengths[:, None]
        ids = torch.full(mask.shape, pad_id, dtype=torch.int64)
        ids[mask] = torch.tensor([token for row in rows for token in row], dtype=torch.int64)
        return cls(ids, mask)

    def to(self, device: torch.device | str) -> Tokens:
        """Return the same tokens on ``device``."""
        return Tokens(self.ids.to(device), self.mask.to(device))


@dataclass(frozen=True)
class TokenLoss:
    """A sum of negative log-likelihoods in nats and the number of target tokens it runs over.

    Kept apart so that gradient accumulation can divide by the tokens of the whole update.
    """

    total: Float[Tensor, ""]
    tokens: int

    @property
    def mean(self) -> Float[Tensor, ""]:
        """Nats per target token."""
        return self.total / max(self.tokens, 1)


@dataclass(frozen=True)
class ReaderSignals:
    """What the reader makes of each passage. No field carries a gradient.

    Only the fields that were asked for are set. K is ``retriever_n_context``.
    """

    target_mask: Bool[Tensor, "bsz length"]
    """True where the target has a token."""
    passage_log_likelihood: Float[Tensor, "bsz n_context length"] | None = None
    """log p(a_t | a_<t, q, d_k), one passage at a time; 0 where ``target_mask`` is False."""
    leave_one_out: Float[Tensor, "bsz n_context length"] | None = None
    """log p(a_t | a_<t, q, all passages but d_k); 0 where ``target_mask`` is False."""
    attention_mass: Float[Tensor, "bsz n_context"] | None = None
    """Attention probability x value norm on the passage's tokens, summed over them and over the
    target's tokens, averaged over heads and layers."""


@dataclass(frozen=True)
class Reading:
    """One pass of a reader over a batch: the training loss and, where asked for, the signals."""

    loss: TokenLoss
    signals: ReaderSignals


@dataclass(frozen=True)
class Generated:
    """One generated answer."""

    text: str
    token_ids: tuple[int, ...]
    log_prob: float
    """Sum of the log-probabilities of the generated tokens, in nats."""
    cut: bool = field(default=False, kw_only=True)
    """Whether `Generation.max_new_tokens` ended it, not an end of its own."""


@dataclass(frozen=True, kw_only=True)
class Generation:
    """How answers are written."""

    max_new_tokens: int = 32
    """Longest answer, in tokens; one that is held to given answers may be as long as they are."""
    min_new_tokens: int = 0
    """Shortest answer, in tokens; one that is held to given answers may be as short as they are."""
    num_beams: int = 1
    """Beams; 1 is greedy."""
    length_penalty: float = 1.0
    """Exponent of the length by which beam scores are divided."""
    decoder_prompt: str = ""
    """What every answer continues, and is no part of it; {query} stands for the query."""
    allowed: str = ""
    """A file of the only answers that may be written, one a line; empty: any, but where the task
    has choices only those."""

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "num_beams"):
            if getattr(self, name) < 1:
                raise InputError(f"generation.{name}={getattr(self, name)}: give 1 or more")
        if not 0 <= self.min_new_tokens <= self.max_new_tokens:
            raise InputError(
                f"generation.min_new_tokens={self.min_new_tokens}: give 0 or more, at most "
                f"max_new_tokens={self.max_new_tokens}"
            )


class Reader(Protocol):
    """Query and passages to answer: Fusion-in-Decoder over T5, or a decoder-only LM.

    Implementations are `torch.nn.Module`s, trained and saved as such.
    """

    settings: Any
    """How inputs are worded and bounded; ``settings.kind`` is "fid" or "causal"."""
    tokenizer: Any
    """The transformers tokenizer."""

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        ...

    def set_dropout(self, p: float) -> None:
        """Set every dropout probability, which must be in [0, 1)."""
        ...

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in the backward pass instead of keeping them."""
        ...

    def collate(self, query: Sequence[str], passages: Sequence[Sequence[Passage]]) -> Any:
        """Return a batch as the reader's tokens; empty passage lists mean closed book.

        Of what is returned, ``n_context`` is the passages per query, 0 in closed book, and
        ``first(n_context)`` keeps the best so many of every query.
        """
        ...

    def legible(self, query: str, passage: Passage) -> Passage:
        """Return a passage without the end of its text that is cut off where it is read."""
        ...

    def loss(self, inputs: Any, target: Sequence[str]) -> TokenLoss:
        """Return the cross-entropy of the targets, with gradient."""
        ...

    def signals(
        self,
        inputs: Any,
        target: Sequence[str],
        measure: frozenset[Signal],
        *,
        logit_temperature: float = 1.0,
    ) -> ReaderSignals:
        """Return what the reader makes of each passage: eval mode, no gradient."""
        ...

    def read(
        self,
        inputs: Any,
        target: Sequence[str],
        *,
        n_context: int,
        measure: frozenset[Signal],
        logit_temperature: float = 1.0,
        phases: Phases = untimed,
    ) -> Reading:
        """Return `loss` over the first ``n_context`` passages and `signals` over all of them.

        One encoding serves both where that changes no number (no active dropout).
        """
        ...

    def generate(
        self,
        inputs: Any,
        generation: Generation,
        *,
        decoder_prompt: Sequence[str] | None = None,
        allowed: Sequence[Sequence[str]] | None = None,
    ) -> list[Generated]:
        """Write one answer for each query: eval mode, no gradient.

        Each continues its ``decoder_prompt``, which is no part of it, and is one of its ``allowed``
        targets, where these are given.
        """
        ...

    def score_each(
        self, inputs: Any, targets: Sequence[Sequence[str]]
    ) -> Float[Tensor, "n_targets bsz"]:
        """Return `score` for several batches of targets of the same queries and passages."""
        ...

    def score(self, inputs: Any, target: Sequence[str]) -> Float[Tensor, " bsz"]:
        """Return log p(target | query, passages), summed over tokens: eval mode, no gradient."""
        ...

    def attention_share(
        self, inputs: Any, generated: Sequence[Generated]
    ) -> Float[Tensor, "bsz n_context"]:
        """Return each passage's share of the attention mass of the generated answer; sums to 1.

        In closed book there are none: ``bsz 0``.
        """
        ...

    def save_pretrained(self, path: Any) -> None:
        """Write an ordinary transformers directory and this reader's own settings."""
        ...


@dataclass(frozen=True)
class Measured:
    """Queries, their passages, and what the reader made of each: all that teaches a retriever."""

    ids: tuple[str, ...]
    """Ids of the examples."""
    query: tuple[str, ...]
    passages: tuple[tuple[Passage, ...], ...]
    signals: ReaderSignals
    withheld: tuple[frozenset[str], ...] = ()
    """Ids of passages that each query may not be shown, however well they fit it: no negatives.
    Empty: none are known, as after a round of signals, where no candidates are pooled."""


@dataclass(frozen=True)
class Losses:
    """What one micro-batch gives: both losses as sums, their counts, and numbers for the log."""

    reader: TokenLoss
    retriever_total: Float[Tensor, ""] | None
    """Sum over queries; None while the retriever is frozen, or is to learn from ``measured``."""
    queries: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Sums over queries of whatever is logged as a mean over queries (KL, entropies)."""
    rows: Int64[Tensor, "bsz n_context"] | None = None
    """Rows retrieved, for the collapse monitor."""
    measured: Measured | None = None
    """The signals, where they were measured."""
