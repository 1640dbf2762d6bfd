"""What a computation costs, found by running it without doing it.

A model of fake tensors has shapes but no numbers, so that a T5 of three billion parameters "runs"
in a moment and in no memory, with the kernels that it would really use. Every operation is seen on
its way: its multiplications are counted, and the memory of every tensor from its birth to its
death.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

LITTLE, MORE = 2, 3
"""Layers at which a model is counted; what a layer adds is their difference."""


_forward: Callable[..., int] = sdpa_flop_count
_backward: Callable[..., int] = sdpa_backward_flop_count


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return int(_forward(query.shape, key.shape, value.shape))


def _attention_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any
) -> int:
    return int(_backward(gradient.shape, query.shape, key.shape, value.shape))


_ATEN = torch.ops.aten
FLOPS: dict[Any, Callable[..., float]] = {
    **flop_registry,
    _ATEN._scaled_dot_product_flash_attention_for_cpu: _attention,
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
"""Torch's own table of what an operation multiplies, with the fused attention of CPUs."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a computation takes."""

    flops: float = 0.0
    """Multiplications and additions of its matrix products."""
    peak_bytes: float = 0.0
    """Most memory at any time of all tensors that are not its own parameters."""
    kept_bytes: float = 0.0
    """Memory of what is left at its end."""

    def __add__(self, other: Cost) -> Cost:
        """Return the cost of one thing after the other, nothing of the first being kept."""
        return Cost(
            flops=self.flops + other.flops,
            peak_bytes=max(self.peak_bytes, other.peak_bytes),
            kept_bytes=max(self.kept_bytes, other.kept_bytes),
        )

    def plus_layers(self, layer: Cost, count: int) -> Cost:
        """Return this with ``count`` times what one layer adds."""
        return Cost(
            flops=self.flops + count * layer.flops,
            peak_bytes=self.peak_bytes + count * layer.peak_bytes,
            kept_bytes=self.kept_bytes + count * layer.kept_bytes,
        )

    def minus(self, other: Cost) -> Cost:
        """Return the difference."""
        return self.plus_layers(other, -1)


class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, counts matrix products and live memory of all tensors that come to be.

    Args:
        known: tensors whose memory is not counted: parameters and inputs.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0.0
        self.live_bytes = self.peak_bytes = 0
        self._storages: dict[int, int] = {}
        for tensor in known:
            self._watch(tensor, 0)

    @property
    def cost(self) -> Cost:
        """What was counted so far."""
        return Cost(flops=self.flops, peak_bytes=self.peak_bytes, kept_bytes=self.live_bytes)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run one operation and count it."""
        keywords = dict(kwargs or {})
        result = func(*args, **keywords)
        count = FLOPS.get(func._overloadpacket)
        if count is not None:
            self.flops += count(*args, **keywords, out_val=result)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._watch(leaf, leaf.untyped_storage().nbytes())
        return result

    def _watch(self, tensor: Tensor, size: int) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._storages:
            return
        self._storages[key] = size
        self.live_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self.live_bytes -= self._storages.pop(key, 0)


def counted(work: Callable[[], Any], module: torch.nn.Module) -> Cost:
    """Return what ``work`` costs; parameters and buffers of ``module`` are not counted.

    Gradients are counted, and what ``work`` returns is counted as kept.
    """
    own = [*module.parameters(), *module.buffers()]
    with Counter(own) as counter:
        result = work()
        cost: Cost = counter.cost
    del result
    return cost


def by_layers(count: Callable[[tuple[int, ...]], Cost], layers: tuple[int, ...]) -> Cost:
    """Return ``count(layers)`` from models of two and three layers: every layer adds the same.

    Args:
        count: the cost of a model whose stacks have so many layers each.
        layers: the layers of each stack of the whole model; fewer than two are counted as such.
    """
    least = tuple(min(LITTLE, one) for one in layers)
    cost = count(least)
    whole = cost
    for stack, wanted in enumerate(layers):
        if wanted > LITTLE:
            more = tuple(MORE if place == stack else one for place, one in enumerate(least))
            whole = whole.plus_layers(count(more).minus(cost), wanted - LITTLE)
    return whole


def parameter_bytes(module: torch.nn.Module) -> int:
    """Return the bytes of all parameters, tied ones once."""
    return sum(one.numel() * one.element_size() for one in module.parameters())
