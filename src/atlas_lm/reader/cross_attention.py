"""One copy of a query's cross-attention keys and values, read by any number of decoder rows.

Scoring passages and beam search run many decoder rows over the same encoder states. Stock models
repeat the states and project them for each row; here the stock decoder projects them once, into its
own cache, and an attention function under the library's registry lets all rows of a query read that
copy. No model code is touched.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, EncoderDecoderCache
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache
from transformers.masking_utils import eager_mask
from transformers.modeling_outputs import BaseModelOutput

from atlas_lm.reader.packing import Layout, PackedStates

SHARED = "atlas_lm_shared"
"""The name of the attention function and of its mask function in the library's registries."""


@dataclass(frozen=True)
class CrossMemory:
    """What a decoder's cross-attention reads: keys and values of every layer.

    The model's rows may be any multiple of ``rows``; row ``i`` reads memory ``i // multiple``.
    """

    keys: tuple[Float[Tensor, "rows heads length head_dim"], ...]
    values: tuple[Float[Tensor, "rows heads length head_dim"], ...]
    mask: Bool[Tensor, "rows length"]
    layout: Layout

    def of_passages(self, first: int, last: int) -> CrossMemory:
        """Return a memory with one row for each of these passages instead of one for each query."""
        position, mask = self.layout.rows_of(first, last)
        bsz, heads, source, head_dim = self.keys[0].shape
        query = torch.arange(bsz, device=position.device)[:, None, None]
        token = (query * source + position).flatten()

        def pick(states: Tensor) -> Tensor:
            tokens = states.transpose(1, 2).reshape(bsz * source, heads * head_dim)
            picked = tokens.index_select(0, token)
            return picked.view(-1, mask.shape[-1], heads, head_dim).transpose(1, 2)

        return CrossMemory(
            tuple(pick(keys) for keys in self.keys),
            tuple(pick(values) for values in self.values),
            mask.flatten(0, 1),
            Layout.of(mask.flatten(0, 1)[:, None]),
        )

    def cache(self) -> Any:
        """Return a fresh stock cache whose cross-attention part is this memory."""
        layers = [
            SharedLayer(keys, values) for keys, values in zip(self.keys, self.values, strict=True)
        ]
        return EncoderDecoderCache(DynamicCache(), Cache(layers=layers))

    def encoder_outputs(self, rows: int) -> Any:
        """Return what stands for the encoder's output: its shape only, as the cache is filled."""
        length = self.keys[0].shape[2]
        return BaseModelOutput(last_hidden_state=self.keys[0].new_zeros(rows, length, 1))


class SharedLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's keys and values, fixed. Beams move among the rows of one query, so it stays."""

    is_sliding = False
    is_compileable = False

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing: the layer is born full."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> Any:
        """Refuse: the layer is fixed."""
        raise RuntimeError("a shared cross-attention memory cannot grow")

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the length of the memory and its offset, 0."""
        return self.keys.shape[2], 0

    def get_seq_length(self) -> int:
        """Return the length of the memory."""
        return int(self.keys.shape[2])

    def get_max_length(self) -> int:
        """Return the length of the memory."""
        return int(self.keys.shape[2])

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Do nothing: all beams of a query read the same row."""


def empty_cache() -> Any:
    """Return a stock cache for a decoder pass to fill."""
    return EncoderDecoderCache(DynamicCache(), DynamicCache())


def project(model: Any, packed: PackedStates) -> CrossMemory:
    """Let the stock decoder project the states once: one step of one token fills its cache."""
    cache = empty_cache()
    start = model.config.decoder_start_token_id
    model.get_decoder()(
        input_ids=torch.full((len(packed.states), 1), start, device=packed.states.device),
        encoder_hidden_states=packed.states,
        encoder_attention_mask=packed.mask,
        past_key_values=cache,
        use_cache=True,
    )
    return memory_of(cache, packed.layout)


def memory_of(cache: Any, layout: Layout) -> CrossMemory:
    """Return the memory, without gradient, that a pass over packed states left in its cache."""
    layers = cache.cross_attention_cache.layers
    keys = tuple(layer.keys.detach() for layer in layers)
    values = tuple(layer.values.detach() for layer in layers)
    return CrossMemory(keys, values, layout.mask, layout)


@contextmanager
def shared_attention(model: Any) -> Iterator[None]:
    """Set the shared attention function on the decoder alone; afterwards all is as it was."""
    AttentionInterface.register(SHARED, attend)
    AttentionMaskInterface.register(SHARED, eager_mask)
    decoder = model.get_decoder()
    before = decoder.config._attn_implementation
    decoder.set_attn_implementation(SHARED)
    try:
        yield
    finally:
        decoder.set_attn_implementation(before)


def attend(
    module: Any,
    query: Float[Tensor, "rows heads length head_dim"],
    key: Float[Tensor, "memories key_heads source head_dim"],
    value: Float[Tensor, "memories key_heads source head_dim"],
    attention_mask: Float[Tensor, "rows 1 #length source"] | None,
    *,
    scaling: float = 1.0,
    position_bias: Float[Tensor, "1 heads length source"] | None = None,
    softcap: float | None = None,
    attention_recorder: Any = None,
    **_: Any,
) -> tuple[Float[Tensor, "rows length heads head_dim"], None]:
    """Softmax attention of which ``rows / memories`` rows read one memory. Eval mode: no dropout.

    Attention over the keys that ``attention_recorder`` looks for is shown to it. Where rows share a
    memory it is cross-attention, whose position bias is zero in every T5, and is left out.
    """
    memories, length = len(key), query.shape[2]
    group = len(query) // memories
    mask = attention_mask
    if position_bias is not None and group == 1:
        mask = position_bias if mask is None else mask + position_bias

    def fold(tensor: Tensor) -> Tensor:
        """``[rows heads length x]`` to ``[memories heads (group length) x]``."""
        return tensor.view(memories, group, *tensor.shape[1:]).transpose(1, 2).flatten(2, 3)

    if mask is not None:
        mask = mask.clamp(min=torch.finfo(query.dtype).min).to(query.dtype)
        mask = fold(mask.expand(-1, -1, length, -1).contiguous()) if group > 1 else mask
    recorder = attention_recorder
    if recorder is not None and not recorder.looks_for(key):
        recorder = None
    if key.shape[1] != query.shape[1]:
        key, value = (
            heads.repeat_interleave(query.shape[1] // key.shape[1], 1) for heads in (key, value)
        )
    if recorder is None and softcap is None:
        output = torch.nn.functional.scaled_dot_product_attention(
            fold(query), key, value, attn_mask=mask, scale=scaling
        )
    else:
        probability = _probability(fold(query) * scaling, key, mask, softcap)
        output = probability @ value
        if recorder is not None:
            recorder.record(probability, value)
    output = output.view(memories, -1, group, length, value.shape[3])
    return output.permute(0, 2, 3, 1, 4).flatten(0, 1).contiguous(), None


def _probability(
    query: Float[Tensor, "memories heads length head_dim"],
    key: Float[Tensor, "memories heads source head_dim"],
    mask: Float[Tensor, " memories #heads #length source"] | None,
    softcap: float | None,
) -> Float[Tensor, "memories heads length source"]:
    """Explicit softmax attention, for what must see the probabilities or bend the scores."""
    scores = query @ key.transpose(2, 3)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    return (scores if mask is None else scores + mask).softmax(dim=-1).to(key.dtype)
