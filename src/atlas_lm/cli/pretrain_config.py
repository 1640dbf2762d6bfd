"""The options of retriever pre-training: ``kind = "contrastive"`` and ``kind = "supervised"``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from atlas_lm.retriever.contrastive_config import ContrastiveConfig
from atlas_lm.retriever.contrastive_fit import FitConfig
from atlas_lm.retriever.contrastive_sampler import CorporaConfig
from atlas_lm.retriever.supervised import SupervisedConfig
from atlas_lm.runtime.errors import InputError


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """The encoder that training starts from."""

    path: str = ""
    """Directory, Hub id or package:NAME of any encoder; empty: one is made from scratch."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Pooling, similarity, lengths and templates, where its directory does not say them."""
    tokenizer_passages: int = 100_000
    """From scratch: passages that the vocabulary is learned from."""


_OF_MEMORY = {
    "batch_size": "batch_size",
    "steps": "steps",
    "embedding_steps": "",
    "learning_rate": "learning_rate",
    "warmup": "warmup_steps",
    "weight_decay": "weight_decay",
    "grad_clip": "grad_clip",
    "half_precision": "",
}
"""Options of ``contrastive`` that hold with order="memory" alone, and those of ``fit`` that do what
they do."""


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """A retriever from passages alone."""

    kind: Literal["contrastive"] = "contrastive"
    """Contrastive pre-training."""
    title: str = ""
    """What the run is, in a few words."""
    order: Literal["memory", "stream"] = "memory"
    """Whether all passages are held in memory (small corpora, one process, not resumable), or read
    by row as they are needed."""
    passages: tuple[str, ...] = ()
    """Passage files (JSONL); Minipedia's where empty."""
    contrastive: ContrastiveConfig = field(default_factory=ContrastiveConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    mix: CorporaConfig = field(default_factory=CorporaConfig)
    fit: FitConfig = field(default_factory=FitConfig)

    def __post_init__(self) -> None:
        if self.order == "memory" and (self.encoder.path or self.mix.corpora):
            raise InputError(
                'encoder.path and mix.corpora need order="stream"; order="memory" makes an encoder '
                "from scratch from one corpus"
            )
        if self.order == "memory" and self.fit != FitConfig():
            raise InputError(
                'the options of fit have no effect with order="memory"; give batch_size, steps, '
                'learning_rate and so on in contrastive, or set order="stream"'
            )
        for name in _OF_MEMORY if self.order == "stream" else ():
            if getattr(self.contrastive, name) != getattr(ContrastiveConfig(), name):
                raise InputError(
                    f'contrastive.{name} has no effect with order="stream"; leave it out'
                    + (f", or give fit.{_OF_MEMORY[name]}" if _OF_MEMORY[name] else "")
                )
        if self.passages and self.mix.corpora:
            raise InputError("passages and mix.corpora are both given; leave one of them out")


@dataclass(frozen=True, kw_only=True)
class SupervisedRun:
    """A retriever from questions with positive and negative passages."""

    kind: Literal["supervised"] = "supervised"
    """Supervised contrastive training."""
    title: str = ""
    """What the run is, in a few words."""
    data: str = ""
    """Judged questions: JSONL, or DPR's JSON."""
    passages: tuple[str, ...] = ()
    """The corpus that passage ids in `data` are of."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    supervised: SupervisedConfig = field(default_factory=SupervisedConfig)
    fit: FitConfig = field(default_factory=FitConfig)

    def __post_init__(self) -> None:
        if not self.encoder.path:
            raise InputError("encoder.path is empty; name an encoder to start from")
