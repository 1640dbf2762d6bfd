"""The processes of one run: who this one is, and how values travel between them.

Everything works without `torch.distributed` being started: a world of one process. Tensors travel
through the default process group (gloo on CPU, NCCL on GPUs); nothing is pickled. Every function
that says "collective" must be called by all processes, in the same order.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from atlas_lm.runtime.errors import InputError


@dataclass(frozen=True, kw_only=True)
class World:
    """The processes that work together, and this one's place among them."""

    rank: int = 0
    """This process, from 0."""
    size: int = 1
    """How many processes there are."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and logs for all."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """Return the rows of ``count`` that are this process's: contiguous, sizes differ by one."""
        return range(self.rank * count // self.size, (self.rank + 1) * count // self.size)


def world() -> World:
    """Return the world: of one process where none was started."""
    if not _started():
        return World()
    return World(rank=dist.get_rank(), size=dist.get_world_size())


@contextmanager
def process_group(device: torch.device | str = "cpu") -> Iterator[World]:
    """Join the processes that ``torchrun`` started, and leave them at the end.

    Without ``torchrun`` this is a world of one and nothing is started. NCCL where ``device`` is a
    CUDA device (the process takes the GPU of its local rank), gloo otherwise.
    """
    if "WORLD_SIZE" not in os.environ or _started():
        yield world()
        return
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield world()
    finally:
        dist.destroy_process_group()


def barrier() -> None:
    """Wait for all processes. Collective."""
    if world().size > 1:
        dist.barrier()


def gather(value: Tensor) -> list[Tensor]:
    """Return every process's ``value``, by rank. Collective.

    The tensors agree in dtype and in every dimension but the first.
    """
    here = world()
    if here.size == 1:
        return [value]
    place = value.device
    counts = gather_numbers([len(value)])[:, 0].tolist()
    longest = max(counts)
    if longest == 0:
        return [value] * here.size
    padded = value.new_zeros((longest, *value.shape[1:]), device=_device())
    padded[: len(value)] = value
    gathered = [torch.empty_like(padded) for _ in range(here.size)]
    dist.all_gather(gathered, padded)
    return [part[:count].to(place) for part, count in zip(gathered, counts, strict=True)]


def gather_numbers(numbers: Sequence[int]) -> Tensor:
    """Return every process's integers as int64 [size n], on CPU. Collective."""
    own = torch.tensor(list(numbers), dtype=torch.int64, device=_device())
    here = world()
    if here.size == 1:
        return own[None].cpu()
    gathered = [torch.empty_like(own) for _ in range(here.size)]
    dist.all_gather(gathered, own)
    return torch.stack(gathered).cpu()


def gather_into(whole: Tensor | None, part: Tensor, counts: Sequence[int]) -> None:
    """Fill ``whole``, on process 0, with every process's ``part``, one after the other. Collective.

    Args:
        whole: room for all parts in the order of ranks; None on the other processes.
        part: what this process has.
        counts: the first dimension of each process's part.
    """
    here = world()
    first = 0
    for rank, count in enumerate(counts):
        if count and here.is_main:
            assert whole is not None
            room = whole[first : first + count]
            room.copy_(part if rank == 0 else _received(room, rank))
        elif count and here.rank == rank:
            dist.send(_as_bytes(part).to(_device()), dst=0)
        first += count


def exchange(parts: Sequence[Tensor], counts: Sequence[int]) -> list[Tensor]:
    """Send ``parts[r]`` to process r; return what each process sent here, by rank. Collective.

    Args:
        parts: one tensor for every process; they agree in all but the first dimension.
        counts: the first dimension of what each process sends here.
    """
    if world().size == 1:
        return list(parts)
    place = parts[0].device
    sent = torch.cat(list(parts)).to(_device()).contiguous()
    received = sent.new_empty((sum(counts), *sent.shape[1:]))
    dist.all_to_all_single(received, sent, list(counts), [len(part) for part in parts])
    return list(torch.split(received.to(place), list(counts)))


def agree(error: BaseException | None) -> None:
    """Raise on every process where one has failed, so that none waits for it. Collective.

    Raises:
        InputError: on the process that failed, its own error; on the others, what it says.
        BaseException: the error itself, on its own process, where it is of another kind.
    """
    message = "" if error is None else f"{type(error).__name__}: {error}"
    if isinstance(error, InputError):
        message = str(error)
    said = torch.frombuffer(bytearray(message.encode() or b"\0"), dtype=torch.uint8)
    failed = gather_numbers([error is not None])[:, 0]
    if not bool(failed.any()):
        return
    messages = [bytes(part.tolist()).decode() for part in gather(said)]
    if error is not None:
        raise error
    rank = int(failed.nonzero()[0])
    raise InputError(f"process {rank} of {len(messages)}: {messages[rank]}")


def _received(like: Tensor, rank: int) -> Tensor:
    data = torch.empty_like(_as_bytes(like), device=_device())
    dist.recv(data, src=rank)
    return data.view(like.dtype).view(like.shape)


def _as_bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)


def _started() -> bool:
    return dist.is_available() and dist.is_initialized()


def _device() -> torch.device:
    """Where tensors must be to travel."""
    if _started() and dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")
