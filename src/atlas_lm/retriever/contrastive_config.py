"""The options of contrastive pre-training; importing them loads no model code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from atlas_lm.runtime.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ContrastiveConfig:
    """How an encoder is made from passages alone, without one label."""

    vocab_size: int = 16000
    """WordPieces learned from the passages (fewer when the text is small)."""
    dim: int = 256
    """Width of the encoder and of its embeddings."""
    layers: int = 2
    """Transformer layers."""
    heads: int = 4
    """Attention heads; divides `dim`."""
    intermediate: int = 512
    """Width of the feed-forward layers."""
    maxlength: int = 128
    """Tokens of a passage the shipped encoder reads; longer ones are cut."""
    dropout: float = 0.1
    """Dropout on hidden states and on attention."""
    embedding_init: Literal["normal", "lsa"] = "lsa"
    """Word embeddings start as noise, or as the latent semantic analysis of the passages."""
    residual_scale: float = 0.1
    """What each sublayer's output weights are multiplied by at the start: near 0, a layer is near
    the identity and does not scramble the embeddings below it."""

    crop_share: float = 0.5
    """Part of the pairs that are two independent crops of one passage (Contriever)."""
    span_share: float = 0.3
    """Part of the pairs that are a short span and the passage around it (inverse cloze)."""
    title_share: float = 0.2
    """Part of the pairs that are a title and the text under it, the title's words deleted."""
    crop_min: float = 0.05
    """Shortest crop, as a part of the passage."""
    crop_max: float = 0.5
    """Longest crop, as a part of the passage."""
    span_min: int = 4
    """Shortest span, in tokens."""
    span_max: int = 16
    """Longest span, in tokens."""
    span_kept: float = 0.5
    """Probability that a span also stays in the passage it is paired with."""
    deletion: float = 0.1
    """Probability that a token of a crop or span is deleted."""
    query_maxlength: int = 32
    """Longest first member of a pair, in tokens; a longer one is a random window."""
    key_maxlength: int = 64
    """Longest second member of a pair, in tokens; a longer one is a random window."""

    negatives: Literal["in_batch", "queue"] = "in_batch"
    """Where negatives come from: the other pairs, or also a queue of a momentum encoder's keys."""
    queue_size: int = 4096
    """Keys the queue holds."""
    momentum: float = 0.995
    """What the momentum encoder keeps of itself at each step."""
    similarity: Literal["cosine", "dot"] = "cosine"
    """Whether embeddings are scaled to length 1 before the inner product."""
    temperature: float = 0.05
    """Divides the similarities in the loss."""
    symmetric: bool = True
    """Whether the second member must also find the first (in-batch negatives only)."""

    batch_size: int = 256
    """Pairs a step."""
    embedding_steps: int = 0
    """Updates before `steps` in which only the embeddings learn, with no layer above them."""
    steps: int = 500
    """Updates of the whole encoder."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW, in either stage."""
    warmup: float = 0.1
    """Part of a stage's updates in which the learning rate rises; then it falls linearly to 0."""
    weight_decay: float = 0.01
    """Decoupled weight decay of the matrices; embeddings, norms and biases have none."""
    grad_clip: float = 1.0
    """Largest norm of the gradient."""
    half_precision: bool = False
    """Whether the weights are written as fp16; they are trained in fp32."""
    seed: int = 0
    """Governs initial weights, pairs, order and dropout."""

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise InputError(f"contrastive.heads={self.heads} does not divide dim={self.dim}")
        if not 0 < self.crop_min <= self.crop_max <= 1:
            raise InputError(
                f"contrastive.crop_min={self.crop_min} and crop_max={self.crop_max}: "
                "give parts of a passage, 0 < crop_min <= crop_max <= 1"
            )
        if not 0 < self.span_min <= self.span_max:
            raise InputError(
                f"contrastive.span_min={self.span_min} must be positive and at most "
                f"span_max={self.span_max}"
            )
        shares = (self.crop_share, self.span_share, self.title_share)
        if min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
            raise InputError(
                f"contrastive: crop_share, span_share and title_share are {shares}; "
                "they must not be negative and must sum to 1"
            )
        if self.temperature <= 0:
            raise InputError(f"contrastive.temperature={self.temperature} must be positive")
        if not 0 <= self.deletion < 1:
            raise InputError(f"contrastive.deletion={self.deletion}: give 0 or more, less than 1")
        if not 0 <= self.momentum < 1:
            raise InputError(f"contrastive.momentum={self.momentum}: give 0 or more, less than 1")
        for name in ("query_maxlength", "key_maxlength", "queue_size"):
            if getattr(self, name) < 1:
                raise InputError(f"contrastive.{name}={getattr(self, name)}: give 1 or more")
        if self.batch_size < 2 or self.steps < 1 or self.embedding_steps < 0:
            raise InputError(
                f"contrastive: batch_size={self.batch_size} must be at least 2, "
                f"steps={self.steps} at least 1 and embedding_steps={self.embedding_steps} "
                "not negative"
            )

    @property
    def positions(self) -> int:
        """Positions the encoder needs: a whole passage, or a piece with its special tokens."""
        return max(self.maxlength, self.key_maxlength + 2, self.query_maxlength + 2)
