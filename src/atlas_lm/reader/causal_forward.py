"""Forward passes of a decoder-only model over layouts; sorted and in chunks without gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from transformers import DynamicCache

from atlas_lm.reader.causal_attention import PassageRecorder, additive_mask
from atlas_lm.reader.causal_generation import Step
from atlas_lm.reader.causal_layout import PAD, Layout, lay_out
from atlas_lm.reader.likelihood import labels_of, token_log_likelihood
from atlas_lm.runtime.errors import InputError
from atlas_lm.types import Tokens


@dataclass(frozen=True)
class Rows:
    """Rows to be read: each has its passages, its question and its target."""

    passages: Tokens
    """``rows n_context length``."""
    query: Tokens
    """``rows length``."""
    target: Tokens
    """``rows length``."""

    def __len__(self) -> int:
        return len(self.query.ids)

    def select(self, rows: Int64[Tensor, " chosen"]) -> Rows:
        """Return some of the rows, cut to the longest passage, question and target among them."""
        return Rows(*(_select(part, rows) for part in (self.passages, self.query, self.target)))

    def first(self, n_context: int) -> Rows:
        """Return the same rows with their best ``n_context`` passages."""
        return self._with_passages(slice(None, n_context))

    def after(self, n_context: int) -> Rows:
        """Return the same rows with the passages that `first` leaves out."""
        return self._with_passages(slice(n_context, None))

    def single_passages(self) -> Rows:
        """Return one row for each passage: ``rows * n_context`` of them, each with one passage."""
        n_context = self.passages.ids.shape[1]
        passages = Tokens(
            self.passages.ids.flatten(0, 1)[:, None], self.passages.mask.flatten(0, 1)[:, None]
        )
        return Rows(passages, _repeat(self.query, n_context), _repeat(self.target, n_context))

    def without_each_passage(self) -> Rows:
        """Return one row for each passage, with all passages but that one."""
        n_context = self.passages.ids.shape[1]
        everything = torch.arange(n_context, device=self.passages.ids.device)
        others = torch.stack([everything[everything != k] for k in range(n_context)])
        passages = Tokens(
            self.passages.ids[:, others].flatten(0, 1), self.passages.mask[:, others].flatten(0, 1)
        )
        return Rows(passages, _repeat(self.query, n_context), _repeat(self.target, n_context))

    def _with_passages(self, which: slice) -> Rows:
        passages = Tokens(self.passages.ids[:, which], self.passages.mask[:, which])
        return Rows(passages, self.query, self.target)

    def all_passages(self) -> Bool[Tensor, "1 n_context"]:
        """Return the copies of a single copy that sees every passage."""
        device = self.passages.ids.device
        return torch.ones(1, self.passages.ids.shape[1], dtype=torch.bool, device=device)


class CausalForward:
    """A model, the prefix of every prompt and how passages are read.

    Args:
        model: a stock decoder-only model.
        prefix: token ids that open every prompt.
        reading: all passages in one prompt, or each alone.
        tokens_per_forward: tokens read at once, in one row at least.
        apart: keep to that also where signals come with the loss; a loss alone reads all rows.
    """

    def __init__(
        self,
        model: Any,
        prefix: Int64[Tensor, " prefix"],
        reading: Literal["one_prompt", "fused"],
        tokens_per_forward: int,
        *,
        apart: bool = False,
    ) -> None:
        self._model = model
        self._prefix = prefix
        self.reading = reading
        self._tokens_per_forward = tokens_per_forward
        self._apart = apart

    def cached_prefix(self) -> DynamicCache | None:
        """Return the prefix's keys and values, ``1 kv_heads prefix head_dim``; None if empty."""
        if not self._prefix.numel():
            return None
        cache = DynamicCache()
        self._model(
            input_ids=self._prefix[None], past_key_values=cache, use_cache=True, logits_to_keep=1
        )
        return cache

    def lay_out(
        self,
        rows: Rows,
        copies: Bool[Tensor, "copies n_context"],
        *,
        prefix_cached: bool = False,
        behind: Layout | None = None,
    ) -> Layout:
        """Return the layout of rows under this reading.

        Raises:
            InputError: the model has not so many positions.
        """
        layout = lay_out(
            self._prefix,
            rows.passages,
            rows.query,
            rows.target,
            copies,
            reading=self.reading,
            prefix_cached=prefix_cached,
            behind=behind,
        )
        self._check_room(layout, rows)
        return layout

    def logits(
        self, layout: Layout, cache: DynamicCache | None = None, **options: Any
    ) -> Float[Tensor, "bsz scored vocabulary"]:
        """Return the logits that score the target; the cache, where given, grows by the layout."""
        out = self._model(
            input_ids=layout.ids,
            attention_mask=additive_mask(self._model, layout.mask, layout.positions),
            position_ids=layout.fed,
            past_key_values=cache,
            use_cache=cache is not None,
            logits_to_keep=layout.columns,
            **options,
        )
        logits: Tensor = out.logits
        return logits

    def runs(self, rows: Rows) -> list[Int64[Tensor, " run"]]:
        """Return which rows are read at once where signals come with the loss."""
        if self._apart and len(rows) > 1:
            return self._chunks(rows, 1)
        return [torch.arange(len(rows), device=rows.query.ids.device)]

    def loss(self, rows: Rows) -> Float[Tensor, ""]:
        """Return -log p of all targets, summed over rows and tokens, with gradient."""
        logits = self.logits(self.lay_out(rows, rows.all_passages()))
        return -copied_log_likelihood(logits, rows.target).sum()

    def log_likelihood(
        self,
        rows: Rows,
        copies: Bool[Tensor, "copies n_context"],
        prefix: DynamicCache | None,
        *,
        temperature: float = 1.0,
    ) -> Float[Tensor, "rows copies length"]:
        """Return log p of every target token under every copy; 0 on the target's pads.

        Rows are sorted by length and read in chunks; a row's numbers do not depend on its chunk.
        """
        shape = (len(rows), len(copies), rows.target.ids.shape[1])
        result = torch.zeros(shape, device=rows.query.ids.device)
        for chunk in self._chunks(rows, len(copies)):
            part = rows.select(chunk)
            layout = self.lay_out(part, copies, prefix_cached=prefix is not None)
            logits = self.logits(layout, expanded(prefix, len(chunk))) / temperature
            width = part.target.ids.shape[1]
            result[chunk, :, :width] = copied_log_likelihood(logits, part.target, len(copies))
        return result

    def leave_one_out(
        self, rows: Rows, prefix: DynamicCache | None, *, temperature: float = 1.0
    ) -> Float[Tensor, "rows n_context length"]:
        """Return log p of every target token with each passage left out in turn.

        Fused, the passages are encoded once and every copy of the question sees all but one.
        """
        if self.reading == "fused":
            everything = torch.eye(rows.passages.ids.shape[1], dtype=torch.bool)
            copies = ~everything.to(rows.query.ids.device)
            return self.log_likelihood(rows, copies, prefix, temperature=temperature)
        others = rows.without_each_passage()
        flat = self.log_likelihood(others, others.all_passages(), prefix, temperature=temperature)
        return flat.view(len(rows), -1, flat.shape[-1])

    def start(self, rows: Rows, most: int) -> tuple[Tensor, Step]:
        """Read prompts; return the first logits and what feeds the next of ``most`` tokens.

        Keys and values are kept; the rows of a step may repeat or reorder those of the one before.

        Raises:
            InputError: the model has not so many positions.
        """
        prefix = self.cached_prefix()
        layout = self.lay_out(rows, rows.all_passages(), prefix_cached=prefix is not None)
        self._check_room(layout, rows, more=most - 1)
        cache = expanded(prefix, len(rows)) or DynamicCache()
        logits = self.logits(layout, cache)[:, 0]
        return logits, _Continuation(self._model, cache, layout)

    def attention_mass(
        self, rows: Rows, prefix: DynamicCache | None
    ) -> Float[Tensor, "rows n_context"]:
        """Return attention x value norm on each passage, as `PassageRecorder` defines it."""
        n_context = rows.passages.ids.shape[1]
        mass = torch.zeros(len(rows), n_context, device=rows.query.ids.device)
        for chunk in self._chunks(rows, 1):
            part = rows.select(chunk)
            layout = self.lay_out(part, rows.all_passages(), prefix_cached=prefix is not None)
            recorder = PassageRecorder(layout, part.target.mask, n_context)
            self.logits(layout, expanded(prefix, len(chunk)), passage_recorder=recorder)
            mass[chunk] = recorder.mass()
        return mass

    def _check_room(self, layout: Layout, rows: Rows, *, more: int = 0) -> None:
        limit = getattr(self._model.config, "max_position_embeddings", None)
        parts = (rows.passages.ids, rows.query.ids, rows.target.ids)
        most = self._prefix.numel() + sum(part[0].numel() for part in parts if len(part)) + more
        if limit is None or most <= limit:
            return  # whatever the masks: to read the positions is to wait for the device
        positions = int(layout.positions.max()) + 1 + more
        if positions > limit:
            raise InputError(
                f"a prompt and its answer take {positions} positions, and "
                f"{type(self._model).__name__} has {limit}; lower n_context or "
                "reader.settings.passage_maxlength, or let reader.settings.reading be fused, where "
                "every passage stands at the same positions"
            )

    def _chunks(self, rows: Rows, n_copies: int) -> list[Int64[Tensor, " chunk"]]:
        asked = rows.query.mask.sum(1) + rows.target.mask.sum(1)
        lengths = rows.passages.mask.sum((1, 2)) + n_copies * asked
        order = lengths.argsort(stable=True)
        chunks: list[Tensor] = []
        start = 0
        for end in range(1, len(rows) + 1):
            full = end == len(rows) or (
                (end + 1 - start) * int(lengths[order[end]]) > self._tokens_per_forward
            )
            if full:
                chunks.append(order[start:end])
                start = end
        return chunks


class _Continuation:
    """Feeds one token at a time behind a cached layout."""

    def __init__(self, model: Any, cache: DynamicCache, layout: Layout) -> None:
        self._model = model
        self._cache = cache
        self._positions = layout.positions
        self._seen = layout.segments != PAD

    def __call__(
        self, token: Int64[Tensor, " rows"], origin: Int64[Tensor, " rows"]
    ) -> Float[Tensor, "rows vocabulary"]:
        if not torch.equal(origin, torch.arange(len(self._seen), device=origin.device)):
            self._cache.reorder_cache(origin)
        positions = self._positions[origin]
        position = positions[:, -1:] + 1
        self._positions = torch.cat([positions, position], 1)
        self._seen = torch.nn.functional.pad(self._seen[origin], (0, 1), value=True)
        out = self._model(
            input_ids=token[:, None],
            attention_mask=additive_mask(self._model, self._seen[:, None, None], self._positions),
            position_ids=position,
            past_key_values=self._cache,
            use_cache=True,
        )
        logits: Tensor = out.logits[:, -1]
        return logits


def detached(cache: DynamicCache) -> DynamicCache:
    """Return the same keys and values without their gradient."""
    copy = DynamicCache()
    for index, layer in enumerate(cache.layers):
        copy.update(layer.keys.detach(), layer.values.detach(), index)
    return copy


def expanded(cache: DynamicCache | None, rows: int) -> DynamicCache | None:
    """Return the prefix's cache for ``rows`` rows; the given one stays as it is."""
    if cache is None:
        return None
    copy = DynamicCache()
    for index, layer in enumerate(cache.layers):
        keys, values = (part.expand(rows, -1, -1, -1) for part in (layer.keys, layer.values))
        copy.update(keys, values, index)
    return copy


def copied_log_likelihood(
    logits: Float[Tensor, "bsz scored vocabulary"], target: Tokens, n_copies: int = 1
) -> Float[Tensor, "bsz copies length"]:
    """Return log p of every target token, copy by copy; 0 on the target's pads."""
    bsz, length = target.ids.shape
    labels = labels_of(target)[:, None].expand(bsz, n_copies, length)
    return token_log_likelihood(logits, labels.flatten(1)).view(bsz, n_copies, length)


def _select(tokens: Tokens, rows: Int64[Tensor, " chosen"]) -> Tokens:
    ids, mask = tokens.ids[rows], tokens.mask[rows]
    width = int(mask.sum(-1).max()) if mask.numel() else mask.shape[-1]
    return Tokens(ids[..., :width], mask[..., :width])


def _repeat(tokens: Tokens, n: int) -> Tokens:
    return Tokens(tokens.ids.repeat_interleave(n, 0), tokens.mask.repeat_interleave(n, 0))
