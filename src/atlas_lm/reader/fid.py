"""Fusion-in-Decoder (Izacard & Grave 2021) over stock T5-family models, by composition.

The stock encoder reads each passage with the query on its own; the stock decoder attends to all of
them at once. One encoding serves the loss and every signal.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoModelForSeq2SeqLM
from transformers.modeling_outputs import BaseModelOutput

from atlas_lm.reader.constrained import AllowedAnswers, Constraint, cut_answer, warn_of_cut_target
from atlas_lm.reader.cross_attention import empty_cache, memory_of, project, shared_attention
from atlas_lm.reader.generation import generate_answers, left_padded
from atlas_lm.reader.inputs import FiDInputs, collate, legible, tokenize
from atlas_lm.reader.likelihood import (
    attention_mass,
    labels_of,
    measure_signals,
    token_log_likelihood,
)
from atlas_lm.reader.loading import load_config, load_tokenizer, load_weights
from atlas_lm.reader.packing import PackedStates, encode_packed
from atlas_lm.reader.settings import SETTINGS_FILE, ReaderSettings
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

MODEL_TYPES = ("t5", "mt5", "umt5", "t5gemma")
"""Encoder-decoders whose stock decoder can be read this way."""

Target = Sequence[str] | Tokens


class FiDReader(nn.Module):
    """A `types.Reader` over a stock encoder-decoder."""

    def __init__(self, model: Any, tokenizer: Any, settings: ReaderSettings | None = None) -> None:
        super().__init__()
        if model.config.model_type not in MODEL_TYPES:
            raise InputError(
                f"a model of type {model.config.model_type!r} cannot be a Fusion-in-Decoder reader;"
                f" supported are {', '.join(MODEL_TYPES)} (T5 v1.1, lm-adapt and flan-T5 are t5)"
            )
        self.model = model
        self.tokenizer = tokenizer
        self.settings = settings or ReaderSettings()
        self.training = model.training
        self._answers: dict[tuple[str, ...], AllowedAnswers] = {}
        _keep_untied(model)
        if model.config.model_type == "t5gemma":  # only eager attention caps its scores
            model.get_encoder().set_attn_implementation("eager")
            model.get_decoder().set_attn_implementation("eager")

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        settings: ReaderSettings | None = None,
        *,
        dtype: torch.dtype = torch.float32,
    ) -> FiDReader:
        """Open a transformers directory, an installed package's (``package:NAME``) or a Hub id.

        ``settings`` default to the directory's ``reader.json``, else to `ReaderSettings`'s own. An
        untied output head (T5 v1.1 and its kin) stays untied.

        Raises:
            InputError: the place is unreadable, its weights are pickled, or its type unsupported.
        """
        from atlas_lm.runtime.packages import resolve_model_path

        place = resolve_model_path(str(name_or_path))
        config = load_config(place)
        if config.model_type not in MODEL_TYPES:
            raise InputError(
                f"{place}: a model of type {config.model_type!r} cannot be a Fusion-in-Decoder "
                f"reader; supported are {', '.join(MODEL_TYPES)}"
            )
        if settings is None and isinstance(place, Path) and (place / SETTINGS_FILE).is_file():
            settings = ReaderSettings.load(place)
        model = load_weights(AutoModelForSeq2SeqLM, place, dtype=dtype)
        return cls(model, load_tokenizer(place), settings)

    def save_pretrained(self, path: str | Path) -> None:
        """Write an ordinary transformers directory and ``reader.json``, all or nothing."""
        with atomic_directory(path) as directory:
            save_stock_model(self.model, directory)
            self.tokenizer.save_pretrained(directory)
            self.settings.save(directory)

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        device: torch.device = self.model.device
        return device

    def collate(self, query: Sequence[str], passages: Sequence[Sequence[Passage]]) -> FiDInputs:
        """Return the batch as tokens; empty passage lists mean closed book."""
        return collate(self.tokenizer, self.settings, query, passages)

    def legible(self, query: str, passage: Passage) -> Passage:
        """Return a passage without the end of its text that is cut off where it is read."""
        return legible(self.tokenizer, self.settings, query, passage)

    def encode(self, inputs: FiDInputs) -> PackedStates:
        """Encode every passage and pack each query's states; gradient follows torch's mode."""
        tokens = inputs.tokens.to(self.device)
        return encode_packed(self.model.get_encoder(), tokens, chunks=self.settings.encoder_chunks)

    def target_tokens(self, target: Target) -> Tokens:
        """Return targets as tokens ``[bsz length]`` on the reader's device; tokens pass through."""
        if isinstance(target, Tokens):
            return Tokens(target.ids, target.mask.bool()).to(self.device)
        rows = self._target_rows(target)
        return Tokens.padded(rows, self.tokenizer.pad_token_id).to(self.device)

    def logits(
        self, packed: PackedStates, target: Tokens, *, cache: Any = None
    ) -> Float[Tensor, "bsz length vocab"]:
        """Return the stock decoder's logits for a target over all of a query's passages.

        A ``cache`` is left with the states' keys and values (not under gradient checkpointing).
        """
        output = self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=packed.states),
            attention_mask=packed.mask.long(),
            decoder_input_ids=self.model.prepare_decoder_input_ids_from_labels(labels_of(target)),
            past_key_values=cache,
            use_cache=cache is not None,
        )
        logits: Tensor = output.logits
        return logits

    def loss(self, inputs: FiDInputs, target: Target) -> TokenLoss:
        """Return the cross-entropy of the targets, with gradient."""
        tokens = self.target_tokens(target)
        return _token_loss(self.logits(self.encode(inputs), tokens), tokens)

    def signals(
        self,
        inputs: FiDInputs,
        target: Target,
        measure: frozenset[Signal],
        *,
        logit_temperature: float = 1.0,
    ) -> ReaderSignals:
        """Return what the reader makes of each passage: eval mode, no gradient.

        ``logit_temperature`` divides the vocabulary's logits before each log-softmax.

        Raises:
            InputError: closed book, or ``leave_one_out`` of a single passage.
        """
        tokens = self.target_tokens(target)
        _check_open_book(inputs, measure)
        with evaluating(self), torch.no_grad():
            return measure_signals(
                self.model,
                self.encode(inputs),
                tokens,
                measure,
                logit_temperature=logit_temperature,
            )

    def read(
        self,
        inputs: FiDInputs,
        target: Target,
        *,
        n_context: int,
        measure: frozenset[Signal],
        logit_temperature: float = 1.0,
        phases: Phases = untimed,
    ) -> Reading:
        """Return `loss` over the first ``n_context`` passages and `signals` over all of them.

        One encoding serves both where no dropout is active and the passages are the same.

        Raises:
            InputError: as `signals` does.
        """
        tokens = self.target_tokens(target)
        _check_open_book(inputs, measure)
        kept = inputs.first(n_context)
        shared = bool(measure) and kept.n_context == inputs.n_context
        shared = shared and not dropout_is_active(self.model)
        cache = empty_cache() if shared and not recomputes_activations(self.model) else None
        packed = self.encode(kept)
        with phases("decode"):
            loss = _token_loss(self.logits(packed, tokens, cache=cache), tokens)
        if not measure:
            return Reading(loss, ReaderSignals(tokens.mask))
        with phases("score"), evaluating(self), torch.no_grad():
            states = packed.detach() if shared else self.encode(inputs)
            memory = memory_of(cache, packed.layout) if cache is not None else None
            signals = measure_signals(
                self.model,
                states,
                tokens,
                measure,
                logit_temperature=logit_temperature,
                memory=memory,
            )
        return Reading(loss, signals)

    def score(self, inputs: FiDInputs, target: Target) -> Float[Tensor, " bsz"]:
        """Return log p(target | query, passages), summed over tokens: eval mode, no gradient."""
        tokens = self.target_tokens(target)
        with evaluating(self), torch.no_grad():
            logits = self.logits(self.encode(inputs), tokens)
            return token_log_likelihood(logits, labels_of(tokens)).sum(dim=-1)

    def score_each(
        self, inputs: FiDInputs, targets: Sequence[Target]
    ) -> Float[Tensor, "n_targets bsz"]:
        """Return `score` for several batches of targets; the passages are encoded once."""
        with evaluating(self), torch.no_grad():
            packed = self.encode(inputs)
            rows = []
            for target in targets:
                tokens = self.target_tokens(target)
                likelihood = token_log_likelihood(self.logits(packed, tokens), labels_of(tokens))
                rows.append(likelihood.sum(dim=-1))
        return torch.stack(rows)

    def generate(
        self,
        inputs: FiDInputs,
        generation: Generation | None = None,
        *,
        decoder_prompt: Sequence[str] | None = None,
        allowed: Sequence[Sequence[str]] | None = None,
    ) -> list[Generated]:
        """Write one answer for each query: eval mode, no gradient.

        Each answer continues its ``decoder_prompt``, where given; the prompt is not part of it.
        With ``allowed`` it is one of the query's targets, letter for letter but for special tokens.
        """
        generation = generation or Generation()
        prompt = rows = constraint = None
        if decoder_prompt is not None:
            rows = self.tokenizer(list(decoder_prompt), add_special_tokens=False).input_ids
            prompt = left_padded(rows, pad=self.tokenizer.pad_token_id).to(self.device)
        if allowed is not None:
            constraint = Constraint([self._allowed(tuple(each)) for each in allowed], rows)
            generation = constraint.bounded(generation)
        with evaluating(self), torch.no_grad():
            written = generate_answers(
                self.model,
                self.tokenizer,
                self.encode(inputs),
                generation,
                prompt,
                constraint,
            )
        if constraint is None:
            return written
        begun = [self._written(text) for text in decoder_prompt or ()]
        return constraint.exact(written, self._written, begun)

    def attention_share(
        self, inputs: FiDInputs, generated: Sequence[Generated]
    ) -> Float[Tensor, "bsz n_context"]:
        """Return how the attention of each written answer divides over its passages, summing to 1.

        In closed book there are none: ``bsz 0``.
        """
        if inputs.n_context == 0:
            return torch.zeros(len(generated), 0, device=self.device)
        rows = [answer.token_ids for answer in generated]
        tokens = Tokens.padded(rows, self.tokenizer.pad_token_id).to(self.device)
        with evaluating(self), torch.no_grad():
            memory = project(self.model, self.encode(inputs))
            with shared_attention(self.model):
                mass = attention_mass(self.model, memory, tokens)
        return mass / mass.sum(dim=-1, keepdim=True)

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in the backward pass: less memory, about a third more time."""
        checkpoint_activations_(self.model)

    def set_dropout(self, p: float) -> None:
        """Set every dropout probability, here and in the configuration saved with the model.

        Raises:
            InputError: ``p`` is not in [0, 1).
        """
        set_dropout_(self.model, p)
        for part in (self.model, self.model.get_encoder(), self.model.get_decoder()):
            for name in ("dropout_rate", "attention_dropout"):
                if hasattr(part.config, name):
                    setattr(part.config, name, p)

    def _allowed(self, targets: tuple[str, ...]) -> AllowedAnswers:
        if targets not in self._answers:
            most = self.settings.target_maxlength
            rows, cut = tokenize(self.tokenizer, targets, most)
            if cut:
                raise cut_answer(max(targets, key=len), most)
            self._answers = {targets: AllowedAnswers(rows, targets)}
        return self._answers[targets]

    def _written(self, target: str) -> str:
        """Return what is written of a target: all but the tokenizer's special tokens."""
        for token in self.tokenizer.all_special_tokens:
            target = target.replace(token, "")
        return target

    def _target_rows(self, targets: Sequence[str]) -> list[list[int]]:
        most = self.settings.target_maxlength
        rows, cut = tokenize(self.tokenizer, targets, most)
        if cut:
            warn_of_cut_target(most)
        return rows


def _keep_untied(model: Any) -> None:
    """Let the configuration say that the output head is untied, where it is.

    The library forces ``tie_word_embeddings`` on every T5 configuration and would tie the head at
    the next `tie_weights`. UMT5's forward reads the field, so there it is left alone.
    """
    untied = model.get_output_embeddings().weight is not model.get_input_embeddings().weight
    if untied and model.config.model_type in ("t5", "mt5"):
        model.config.tie_word_embeddings = False


def _token_loss(logits: Float[Tensor, "bsz length vocab"], target: Tokens) -> TokenLoss:
    likelihood = token_log_likelihood(logits, labels_of(target))
    return TokenLoss(-likelihood.sum(), int(target.mask.sum()))


def _check_open_book(inputs: FiDInputs, measure: frozenset[Signal]) -> None:
    if measure and inputs.n_context == 0:
        raise InputError(
            f"{', '.join(sorted(measure))} of a query without passages: "
            "the retriever cannot be taught in closed book"
        )
