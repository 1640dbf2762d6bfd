"""The processes of one run: who this one is, and how values travel between them.

Everything works without `torch.distributed` being started: a world of one process. Tensors travel
through the default process group (gloo on CPU, NCCL on GPUs); nothing is pickled. Every function
that says "collective" must be called by all processes, in the same order.
"""

from __future__ import annotations

import datetime
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.launched import Place, launched

TIMEOUT = 1800.0
"""Seconds that a process waits for the others before the run is given up."""


class OtherProcessFailed(InputError):  # noqa: N818
    """Another process of the run has failed or gone; the message says which and why."""


class StopAsked(Exception):  # noqa: N818
    """Work in pieces was given up between two of them, on all processes: one was asked to stop."""


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
    if not is_started():
        return World()
    return World(rank=dist.get_rank(), size=dist.get_world_size())


def is_started() -> bool:
    """Return whether this process has joined others, if only in a world of one."""
    return dist.is_available() and dist.is_initialized()


@contextmanager
def process_group(
    device: torch.device | str = "cpu", *, timeout: float = TIMEOUT
) -> Iterator[World]:
    """Join the processes that ``torchrun`` or SLURM started, and leave them at the end.

    Started by neither, this is a world of one and nothing is started. NCCL where ``device`` is a
    CUDA device (the process takes the GPU of its local rank; gloo beside it for what lives on the
    CPU), gloo otherwise. What ends one process ends all: those that wait for it raise, and say what
    it said.

    Args:
        device: Where the work is done.
        timeout: Seconds that a process waits for the others.

    Raises:
        OtherProcessFailed: another process has failed, or has gone without a word.
    """
    place = launched()
    if place is None or is_started():
        yield world()
        return
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.set_device(own_gpu(place.local_rank, torch.cuda.device_count()))
    limit = datetime.timedelta(seconds=timeout)
    place.export()
    store, rank, size = next(rendezvous("env://", place.rank, place.size, timeout=limit))
    store.set_timeout(limit)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        store=PrefixStore("process_group", store),
        rank=rank,
        world_size=size,
        timeout=limit,
    )
    try:
        yield world()
    except Exception as error:
        first = _first_cause(PrefixStore("failure", store), place, error)
        if first is None:
            raise
        raise OtherProcessFailed(first) from error
    dist.destroy_process_group()


def own_gpu(local_rank: int, visible: int) -> int:
    """Return which of the GPUs that this process sees is its own.

    The one of its local rank; the only one where the launcher shows each process its own alone.

    Raises:
        InputError: there are fewer GPUs than processes on this machine.
    """
    if visible == 1:
        return 0
    if local_rank >= visible:
        raise InputError(
            f"process {local_rank} of this machine finds {visible} GPUs; start as many processes "
            "on each machine as it has GPUs, or leave out --device cuda"
        )
    return local_rank


def _first_cause(store: Any, place: Place, error: Exception) -> str | None:
    """Tell the others of this process's failure; return what another has said before it.

    None where this process is the first to fail, and by itself.
    """
    lost = _is_lost_connection(error)
    said = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
    own = json.dumps([place.rank, None if lost else said])
    first: str | None
    answer = _said_first(store, own)
    if answer is None:
        if lost:
            return _store_gone(place, error)
        rank, first = place.rank, None
    else:
        rank, first = json.loads(answer)
    if not lost and rank == place.rank:
        return None
    if first is None:
        return (
            f"process {place.rank} of {place.size}: another process of the run has gone without a "
            "word (killed, out of memory, or hanging?), so this one stops too. What it saw: "
            f"{_briefly(error)}"
        )
    return f"process {place.rank} of {place.size} stops: process {rank} failed with {first}"


def _said_first(store: Any, own: str) -> str | bytes | None:
    """Return what the first to fail has said, ``own`` where that is this process.

    None where the process that keeps the store has gone, or does not answer within five seconds.
    """
    answers: list[str | bytes] = []

    def ask() -> None:
        with suppress(RuntimeError, ValueError):
            answers.append(store.compare_set("first", "", own))

    # compare_set heeds no time limit of the store's, so a process 0 that hangs would hold this one.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(timeout=5)
    return answers[0] if answers else None


def _store_gone(place: Place, error: Exception) -> str:
    """Return what is known where process 0 has left or hangs, with all that was said: not why."""
    return (
        f"process {place.rank} of {place.size}: process 0, or the launcher that all meet at, has "
        "gone or hangs, so this one stops too. What process 0 showed last says why; where it "
        f"showed nothing, it was killed (out of memory?). What this one saw: {_briefly(error)}"
    )


def _briefly(error: Exception) -> str:
    """Return an error's first sentence, without the places in the library's sources."""
    return re.sub(r"^\[.*?\] ", "", str(error).partition(". ")[0])[:200]


def _is_lost_connection(error: Exception) -> bool:
    if isinstance(error, dist.DistError):
        return True
    signs = (
        "gloo",
        "NCCL",
        "Connection closed by peer",
        "Connection reset",
        "Broken pipe",
        "timeout caused pair closure",
    )
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)


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


def add_up(tensor: Tensor) -> None:
    """Replace ``tensor`` by its sum over all processes. Collective."""
    if world().size > 1:
        place = tensor.to(_device())
        dist.all_reduce(place)
        if place is not tensor:
            tensor.copy_(place)


def gather_json(value: Any) -> list[Any]:
    """Return every process's ``value``, by rank, as JSON carries it. Collective."""
    if world().size == 1:
        return [json.loads(json.dumps(value))]
    said = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    return [json.loads(bytes(part.tolist())) for part in gather(said)]


def any_process(condition: bool) -> bool:
    """Return whether the condition holds on any process. Collective."""
    return bool(gather_numbers([condition]).any())


def in_order_of_ranks(values: Iterable[str]) -> list[str]:
    """Return the texts of all processes, those of process 0 first. Collective."""
    return [value for part in gather_json(list(values)) for value in part]


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor that is sharded over the processes as one of its own; others as they are.

    Collective where it is sharded.
    """
    if not is_sharded(tensor):
        return tensor
    mesh = tensor.device_mesh  # type: ignore[attr-defined]
    gathered: Tensor = tensor.to(mesh.device_type).full_tensor()  # type: ignore[attr-defined]
    return gathered.to(tensor.device)


def placed_like(value: Tensor, like: Tensor) -> Tensor:
    """Return ``value``, the same on all processes, on the device and in the shares of ``like``."""
    value = value.to(like.device)
    if not is_sharded(like):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)  # type: ignore[attr-defined]


def is_sharded(tensor: Tensor) -> bool:
    """Return whether each process holds only a share of the tensor."""
    if not is_started():
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def gathers_shares(module: torch.nn.Module) -> bool:
    """Return whether the module, when it runs, gathers parameters from all processes."""
    if not is_started():
        return False
    from torch.distributed.fsdp import FSDPModule

    return isinstance(module, FSDPModule)


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
    try:
        failed = gather_numbers([error is not None])[:, 0]
    except Exception as lost:
        if error is not None:
            raise error from lost
        raise
    if not bool(failed.any()):
        return
    messages = [bytes(part.tolist()).decode() for part in gather(said)]
    if error is not None:
        raise error
    rank = int(failed.nonzero()[0])
    raise InputError(f"process {rank} of {len(messages)}: {messages[rank]}")


@contextmanager
def agreed() -> Iterator[None]:
    """Raise on every process what the block raises on one of them, as `agree` does. Collective."""
    error: Exception | None = None
    try:
        yield
    except Exception as failure:
        error = failure
    agree(error)


def never() -> bool:
    """Return False."""
    return False


@contextmanager
def in_pieces(stopping: Callable[[], bool] = never) -> Iterator[Callable[[], object]]:
    """Do work in pieces, of which processes may have unequally many; raise on all what one raises.

    What is yielded is to be called after each piece. There the processes meet: none waits for
    another longer than a piece takes, and none goes on where another has failed. Collective.

    Args:
        stopping: Whether this process has been asked to stop; looked at after each piece.

    Raises:
        StopAsked: one was asked to, and the work of all was not done.
    """
    parted = False

    def meet(error: Exception | None = None, *, at_work: bool = True) -> bool:
        """Return whether any process is still at work."""
        nonlocal parted
        parted = True
        agree(error)
        votes = gather_numbers([at_work, stopping()]).any(0)
        somebody, asked = votes.tolist()
        if somebody and asked:
            raise StopAsked
        parted = False
        return bool(somebody)

    try:
        yield meet
    except Exception as failure:
        if not parted:
            meet(failure)
        raise
    while meet(at_work=False):
        pass


def _received(like: Tensor, rank: int) -> Tensor:
    data = torch.empty_like(_as_bytes(like), device=_device())
    dist.recv(data, src=rank)
    return data.view(like.dtype).view(like.shape)


def _as_bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)


def _only_on_gpus() -> bool:
    return dist.get_backend() == "nccl"


def _device() -> torch.device:
    """Where tensors must be to travel."""
    if is_started() and _only_on_gpus():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")
