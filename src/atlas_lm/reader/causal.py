"""A decoder-only language model that reads retrieved passages and tells how useful each one was.

- Any `AutoModelForCausalLM`, by composition; nothing of its code is replaced.
- Two readings. *One prompt*: all passages in a row. *Fused*: every passage is encoded alone behind
  the shared prefix, at the same positions, and question and answer attend to all of them, which is
  Fusion-in-Decoder for a decoder-only model. With one passage they are the same numbers.
- Target token t is scored by the logits at t - 1; the vocabulary is only computed there.
- The prefix is computed once a call, and its keys and values are shared, where nothing is trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from atlas_lm.reader import causal_attention, causal_loading
from atlas_lm.reader.causal_forward import CausalForward, Rows
from atlas_lm.reader.causal_generation import Ends, beam_search, greedy
from atlas_lm.reader.causal_prompt import CausalInputs, Wording
from atlas_lm.reader.causal_settings import CausalSettings
from atlas_lm.reader.causal_signals import measured, read_once
from atlas_lm.reader.constrained import AllowedAnswers, Constraint, cut_answer
from atlas_lm.reader.settings import SETTINGS_FILE
from atlas_lm.runtime import distributed
from atlas_lm.runtime.checkpointing import checkpoint_activations_, recomputes_activations
from atlas_lm.runtime.dropout import dropout_is_active, set_dropout_
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.files import atomic_directory
from atlas_lm.runtime.modes import evaluating
from atlas_lm.runtime.phases import Phases, untimed
from atlas_lm.runtime.weights import save_stock_model
from atlas_lm.types import (
    Generated,
    Generation,
    Passage,
    ReaderSignals,
    Reading,
    Signal,
    TokenLoss,
    Tokens,
)

__all__ = ["CausalInputs", "CausalReader", "CausalSettings"]

TOKENS_PER_FORWARD = {"cpu": 1024, "other": 4096}
"""What `CausalSettings.tokens_per_forward` is where it is None."""


class CausalReader(nn.Module):
    """Query and passages to answer, by a decoder-only language model."""

    def __init__(self, model: Any, tokenizer: Any, settings: CausalSettings | None = None) -> None:
        super().__init__()
        causal_attention.install(model)
        self.model = model
        self.tokenizer = tokenizer
        self.settings = settings or CausalSettings()
        self.wording = Wording(tokenizer, self.settings)
        self._answers: dict[tuple[str, ...], AllowedAnswers] = {}
        _freeze_below(model, self.settings.trainable_layers)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        settings: CausalSettings | None = None,
        *,
        dtype: torch.dtype = torch.float32,
    ) -> CausalReader:
        """Open a transformers directory, a Hub id, a GGUF file or ``package:NAME``.

        Settings not given are those of the directory's ``reader.json``, else the defaults.

        Raises:
            InputError: there is no such decoder-only model, or its ``reader.json`` is wrong.
        """
        model, tokenizer = causal_loading.load(name_or_path, dtype=dtype)
        if settings is None and (Path(name_or_path) / SETTINGS_FILE).is_file():
            settings = CausalSettings.load(name_or_path)
        return cls(model, tokenizer, settings)

    def with_settings(self, **changes: Any) -> CausalReader:
        """Return a reader of the same weights, shared, under other settings."""
        return CausalReader(self.model, self.tokenizer, replace(self.settings, **changes))

    def save_pretrained(self, path: str | Path) -> None:
        """Write an ordinary transformers directory and ``reader.json``, all or nothing."""
        with atomic_directory(path) as directory:
            save_stock_model(self.model, directory)
            self.tokenizer.save_pretrained(directory)
            self.settings.save(directory)

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        device: torch.device = next(self.model.parameters()).device
        return device

    def enable_gradient_checkpointing(self) -> None:
        """Recompute every block in the backward pass instead of keeping its activations."""
        checkpoint_activations_(self.model)

    def set_dropout(self, p: float) -> None:
        """Set every dropout probability, attention's too; not saved.

        Raises:
            InputError: ``p`` is not in [0, 1).
        """
        set_dropout_(self.model, p)

    def collate(self, query: Sequence[str], passages: Sequence[Sequence[Passage]]) -> CausalInputs:
        """Return a batch as tokens; empty passage lists mean closed book.

        Raises:
            InputError: the queries have different numbers of passages.
        """
        return self.wording.inputs(query, passages).to(self.device)

    def legible(self, query: str, passage: Passage) -> Passage:
        """Return a passage without the end of its text that is cut off where it is read."""
        return self.wording.legible(passage)

    def loss(self, inputs: CausalInputs, target: Sequence[str]) -> TokenLoss:
        """Return the cross-entropy of the targets, summed over their tokens, with gradient."""
        return self._loss(self._rows(inputs, target))

    def signals(
        self,
        inputs: CausalInputs,
        target: Sequence[str],
        measure: frozenset[Signal],
        *,
        logit_temperature: float = 1.0,
    ) -> ReaderSignals:
        """Return what the reader makes of each passage: eval mode, no gradient.

        ``logit_temperature`` divides the logits of both likelihoods. Attention mass is taken from
        the tokens that predict the target's (LSR: RA-DIT, REPLUG; ADist: Atlas, section 2.2).
        """
        return self._signals(self._rows(inputs, target), measure, logit_temperature)

    def read(
        self,
        inputs: CausalInputs,
        target: Sequence[str],
        *,
        n_context: int,
        measure: frozenset[Signal],
        logit_temperature: float = 1.0,
        phases: Phases = untimed,
    ) -> Reading:
        """Return `loss` over the first ``n_context`` passages and `signals` over all of them.

        One forward pass serves both where that changes no number: without active dropout, and
        without gradient checkpointing, which keeps no keys and values.
        """
        differs = dropout_is_active(self.model) or recomputes_activations(self.model)
        if not differs and 0 < n_context <= inputs.n_context:
            return read_once(
                self._forward(),
                self._rows(inputs, target),
                measure,
                n_context=n_context,
                temperature=logit_temperature,
            )
        loss = self._loss(self._rows(inputs.first(n_context), target))
        with phases("score"):
            signals = self._signals(self._rows(inputs, target), measure, logit_temperature)
        return Reading(loss, signals)

    def score(self, inputs: CausalInputs, target: Sequence[str]) -> Float[Tensor, " bsz"]:
        """Return log p(target | query, passages), summed over tokens: eval mode, no gradient."""
        return self._score(self._rows(inputs, target))

    def attention_share(
        self, inputs: CausalInputs, generated: Sequence[Generated]
    ) -> Float[Tensor, "bsz n_context"]:
        """Return how the attention mass of generated answers is shared out among the passages."""
        tokens = Tokens.padded([answer.token_ids for answer in generated]).to(self.device)
        rows = Rows(inputs.passages, inputs.query, tokens)
        with torch.no_grad(), evaluating(self):
            forward = self._forward()
            mass = forward.attention_mass(rows, forward.cached_prefix())
        return mass / mass.sum(-1, keepdim=True).clamp_min(torch.finfo(mass.dtype).tiny)

    def score_each(
        self, inputs: CausalInputs, targets: Sequence[Sequence[str]]
    ) -> Float[Tensor, "n_targets bsz"]:
        """Return `score` for several batches of targets of the same queries and passages."""
        return torch.stack([self._score(self._rows(inputs, target)) for target in targets])

    def generate(
        self,
        inputs: CausalInputs,
        generation: Generation,
        *,
        decoder_prompt: Sequence[str] | None = None,
        allowed: Sequence[Sequence[str]] | None = None,
    ) -> list[Generated]:
        """Write one answer for each query: eval mode, no gradient.

        An answer ends with the stop or the end of sequence; its end is among its tokens and in its
        log-probability. Each continues its ``decoder_prompt``, which is no part of it, and is one
        of its ``allowed`` targets, letter for letter, where these are given.
        """
        prompts = None
        if decoder_prompt is not None:
            prompts = [self.wording.continued(text) for text in decoder_prompt]
            inputs = inputs.continued(prompts).to(self.device)
        constraint = None
        if allowed is not None:
            constraint = Constraint([self._allowed(tuple(each)) for each in allowed], prompts)
            generation = constraint.bounded(generation)
        unwritten = Tokens.padded([[0]] * len(inputs)).to(self.device)
        rows = Rows(inputs.passages, inputs.query, unwritten)
        is_whole = constraint.is_whole if constraint else lambda _, ids: self.wording.is_ended(ids)
        ends = Ends(torch.tensor(sorted(self.wording.end_ids), device=self.device), is_whole)
        search = greedy if generation.num_beams == 1 else beam_search
        with torch.no_grad(), evaluating(self):
            logits, step = self._forward().start(rows, generation.max_new_tokens)
            written = search(logits, step, ends, generation, constraint)
        answers = [
            Generated(
                self.wording.decode(answer.token_ids),
                answer.token_ids,
                answer.log_prob,
                cut=not self.wording.is_ended(answer.token_ids),
            )
            for answer in written
        ]
        if constraint is None:
            return answers
        begun = [self.wording.begun(text) for text in decoder_prompt or ()]
        return constraint.exact(answers, self.wording.worded, begun)

    def _allowed(self, targets: tuple[str, ...]) -> AllowedAnswers:
        if targets not in self._answers:
            for target in targets:
                if self.wording.is_cut(target):
                    raise cut_answer(target, self.settings.target_maxlength)
            self._answers = {targets: AllowedAnswers(map(self.wording.target, targets), targets)}
        return self._answers[targets]

    def _loss(self, rows: Rows) -> TokenLoss:
        return TokenLoss(self._forward().loss(rows), int(rows.target.mask.sum()))

    def _signals(self, rows: Rows, measure: frozenset[Signal], temperature: float) -> ReaderSignals:
        with torch.no_grad(), evaluating(self):
            forward = self._forward()
            prefix = forward.cached_prefix() if measure else None
            return measured(forward, rows, measure, temperature=temperature, prefix=prefix)

    def _score(self, rows: Rows) -> Float[Tensor, " bsz"]:
        with torch.no_grad(), evaluating(self):
            forward = self._forward()
            prefix = forward.cached_prefix()
            return forward.log_likelihood(rows, rows.all_passages(), prefix).sum((1, 2))

    def _rows(self, inputs: CausalInputs, target: Sequence[str]) -> Rows:
        targets = self.wording.targets(target).to(self.device)
        return Rows(inputs.passages, inputs.query, targets)

    def _forward(self) -> CausalForward:
        prefix = torch.tensor(self.wording.prefix, dtype=torch.int64, device=self.device)
        settings, on_cpu = self.settings, self.device.type == "cpu"
        tokens = settings.tokens_per_forward or TOKENS_PER_FORWARD["cpu" if on_cpu else "other"]
        # FSDP counts on as many passes with gradient in every process.
        apart = on_cpu and not distributed.gathers_shares(self)
        return CausalForward(self.model, prefix, settings.reading, tokens, apart=apart)


def _freeze_below(model: Any, trainable_layers: int | None) -> None:
    """Freeze all but the topmost blocks, which stay as they are; None freezes nothing."""
    if trainable_layers is None:
        return
    blocks = _blocks(model)
    top = blocks[max(len(blocks) - trainable_layers, 0) :]
    kept = {id(parameter) for block in top for parameter in block.parameters()}
    for parameter in model.parameters():
        if id(parameter) not in kept:
            parameter.requires_grad_(False)


def _blocks(model: Any) -> nn.ModuleList:
    for part in model.modules():
        if isinstance(part, nn.ModuleList) and len(part) == model.config.num_hidden_layers:
            return part
    raise InputError(
        f"{type(model).__name__}: no list of blocks found; leave trainable_layers unset"
    )
