"""Answers written by the stock `generate`, all beams of a query reading one memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from transformers import GenerationConfig

from atlas_lm.reader.constrained import Constraint
from atlas_lm.reader.cross_attention import project, shared_attention
from atlas_lm.reader.packing import PackedStates
from atlas_lm.types import Generated, Generation, Tokens


def generate_answers(
    model: Any,
    tokenizer: Any,
    packed: PackedStates,
    generation: Generation,
    prompt: Tokens | None = None,
    constraint: Constraint | None = None,
) -> list[Generated]:
    """Write one answer for each query: greedy or beam search, in the model's present mode.

    A ``prompt`` (left-padded) is what each answer begins with; it is not part of the answer. Only
    what the ``constraint`` lets through is written; log-probabilities are the model's own.
    """
    memory = project(model, packed)
    keywords: dict[str, Any] = {} if prompt is None else _prompted(model, prompt)
    skip = 1 if prompt is None else keywords["decoder_input_ids"].shape[1]
    if constraint is not None:
        keywords["prefix_allowed_tokens_fn"] = _allowed_tokens(constraint, model, skip)
    config = _stock_config(model, generation)
    with shared_attention(model), _told_by_us_alone(model):
        output = model.generate(
            encoder_outputs=memory.encoder_outputs(len(packed.states)),
            attention_mask=packed.mask.long(),
            past_key_values=memory.cache(),
            generation_config=config,
            **keywords,
        )
    log_probs = _token_log_probs(model, output, generation)
    return [
        _generated(tokenizer, config, ids[skip:].tolist(), scores)
        for ids, scores in zip(output.sequences, log_probs, strict=True)
    ]


def left_padded(token_ids: list[list[int]], *, pad: int) -> Tokens:
    """Return ragged ids as one tensor with pads on the left, where a prompt's pads must be."""
    longest = max(map(len, token_ids))
    ids = torch.tensor([[pad] * (longest - len(row)) + row for row in token_ids])
    mask = torch.tensor([[False] * (longest - len(row)) + [True] * len(row) for row in token_ids])
    return Tokens(ids, mask)


def _allowed_tokens(
    constraint: Constraint, model: Any, skip: int
) -> Callable[[int, Tensor], list[int]]:
    """Return what stock `generate` asks for every row: the tokens that may come next.

    A row whose answer is whole is fed pads.
    """

    def allowed(query: int, token_ids: Tensor) -> list[int]:
        following = constraint.following(query, token_ids[skip:].tolist())
        return following or [model.config.pad_token_id]

    return allowed


@contextmanager
def _told_by_us_alone(model: Any) -> Iterator[None]:
    """Keep the checkpoint's generation settings out: stock `generate` fills in what it is not told.

    A repetition penalty or a minimum length of a summarizer's would change answers, and the
    log-probabilities of beams.
    """
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


def _stock_config(model: Any, generation: Generation) -> GenerationConfig:
    """Return what stock `generate` is told; nothing is taken from the checkpoint but token ids."""
    return GenerationConfig(
        do_sample=False,
        num_beams=generation.num_beams,
        length_penalty=generation.length_penalty if generation.num_beams > 1 else None,
        max_new_tokens=generation.max_new_tokens,
        min_new_tokens=generation.min_new_tokens or None,
        decoder_start_token_id=model.config.decoder_start_token_id,
        eos_token_id=model.config.eos_token_id,
        pad_token_id=model.config.pad_token_id,
        return_dict_in_generate=True,
        output_logits=generation.num_beams == 1,
        output_scores=generation.num_beams > 1,
    )


def _prompted(model: Any, prompt: Tokens) -> dict[str, Tensor]:
    """Put the decoder's start token before every prompt."""
    start = model.config.decoder_start_token_id
    rows = [[start, *ids[mask].tolist()] for ids, mask in zip(prompt.ids, prompt.mask, strict=True)]
    tokens = left_padded(rows, pad=model.config.pad_token_id).to(prompt.ids.device)
    return {"decoder_input_ids": tokens.ids, "decoder_attention_mask": tokens.mask.long()}


def _token_log_probs(
    model: Any, output: Any, generation: Generation
) -> Float[Tensor, "bsz new_tokens"]:
    """Return log p of every generated token under the model itself, not the bounded search.

    Beam search's scores are the model's log-probabilities; greedy's may be masked by a minimum
    length, so its raw logits are taken.
    """
    if generation.num_beams > 1:
        scores: Tensor = model.compute_transition_scores(
            output.sequences, output.scores, output.beam_indices, normalize_logits=False
        )
        return scores
    new_tokens: Int64[Tensor, "bsz new_tokens"] = output.sequences[:, -len(output.logits) :]
    per_step = [
        logits.float().log_softmax(dim=-1).gather(1, ids[:, None])
        for logits, ids in zip(output.logits, new_tokens.unbind(dim=1), strict=True)
    ]
    return torch.cat(per_step, dim=1)


def _generated(
    tokenizer: Any,
    config: GenerationConfig,
    token_ids: list[int],
    scores: Float[Tensor, " new_tokens"],
) -> Generated:
    """Cut the pads behind the end of an answer and decode it."""
    ends = config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    stop = next((step + 1 for step, token in enumerate(token_ids) if token in ends), None)
    kept = token_ids[:stop]
    text = tokenizer.decode(kept, skip_special_tokens=True).strip()
    return Generated(text, tuple(kept), float(scores[: len(kept)].sum()), cut=stop is None)
