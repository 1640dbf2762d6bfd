from __future__ import annotations

import multiprocessing
import os
import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp

from atlas_lm.runtime import distributed
from atlas_lm.runtime.distributed import World
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.launched import Place


def test_shares_are_contiguous_and_even():
    for count in (0, 1, 5, 12, 13):
        shares = [World(rank=rank, size=4).share(count) for rank in range(4)]
        assert [row for share in shares for row in share] == list(range(count))
        lengths = [len(share) for share in shares]
        assert max(lengths) - min(lengths) <= 1


def test_one_process_is_a_world_of_its_own(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    value = torch.arange(3)
    with distributed.process_group() as world:
        assert (world.rank, world.size, world.is_main) == (0, 1, True)
        assert distributed.gather(value) == [value]
        assert distributed.exchange([value], [3]) == [value]
        assert distributed.gather_numbers([4, 5]).tolist() == [[4, 5]]
        distributed.barrier()
        distributed.agree(None)
        with pytest.raises(InputError, match="mine"):
            distributed.agree(InputError("mine"))


def pieces_done(own: int, *, failing: bool = False) -> int:
    """Do so many pieces of work; where another process fails, stop within one."""
    done = 0
    with distributed.in_pieces() as meet:
        for _ in range(own):
            assert done < 2 or own < 9
            done += 1
            meet()
        if failing:
            raise ValueError("broken")
    return done


def conversation(rank: int, size: int, port: int) -> None:
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    with distributed.process_group() as world:
        assert (world.rank, world.size, world.is_main) == (rank, size, rank == 0)
        own = torch.full((rank, 2), rank, dtype=torch.bfloat16)
        assert [len(part) for part in distributed.gather(own)] == [0, 1]
        assert [len(part) for part in distributed.gather(own[:0])] == [0, 0]
        parts = [torch.full((to + 1,), 10 * rank + to) for to in range(size)]
        received = distributed.exchange(parts, [rank + 1] * size)
        assert [part.tolist() for part in received] == [
            [rank] * (rank + 1),
            [10 + rank] * (rank + 1),
        ]
        whole = torch.empty((5, 2), dtype=torch.bfloat16) if world.is_main else None
        part = torch.full((2 + rank, 2), rank + 1, dtype=torch.bfloat16)
        distributed.gather_into(whole, part, [2, 3])
        assert whole is None or whole[:, 0].tolist() == [1, 1, 2, 2, 2]
        distributed.agree(None)
        with pytest.raises(ValueError if rank else InputError, match="broken"):
            distributed.agree(ValueError("broken") if rank else None)
        assert pieces_done(own=1 + 3 * rank) == 1 + 3 * rank
        with pytest.raises(ValueError if rank else InputError, match="broken"):
            pieces_done(own=1 if rank else 9, failing=bool(rank))
        with pytest.raises(distributed.StopAsked), distributed.in_pieces(lambda: rank == 1) as meet:
            for _ in range(0 if rank else 9):
                meet()
        distributed.barrier()
    assert distributed.world() == World()


@pytest.mark.multiprocess
def test_two_processes_talk():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.set_forkserver_preload(["atlas_lm.runtime.distributed", __name__])
    mp.start_processes(conversation, (2, port), nprocs=2, start_method="forkserver")


def test_what_failed_is_not_forgotten_where_the_others_have_gone(monkeypatch):
    def lost(numbers):
        raise RuntimeError("[gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 5000ms")

    monkeypatch.setattr(distributed, "gather_numbers", lost)
    with pytest.raises(InputError, match="the disk is full"), distributed.agreed():
        raise InputError("the disk is full")
    with pytest.raises(RuntimeError, match="Timed out"), distributed.agreed():
        pass
    with pytest.raises(InputError, match="the disk is full"), distributed.in_pieces():
        raise InputError("the disk is full")


class GoneStore:
    """A store whose keeper, process 0 under SLURM, has left."""

    def compare_set(self, key, expected, value):
        raise torch.distributed.DistNetworkError("failed to recv, got 0 bytes")


def test_where_process_0_has_left_nobody_claims_to_know_why():
    lost = RuntimeError("[gloo/pair.cc:547] Connection closed by peer [127.0.0.1]:123")
    place = Place(rank=2, size=3, local_rank=2, address="127.0.0.1", port=1)
    said = distributed._first_cause(GoneStore(), place, lost)
    assert "process 2 of 3: process 0" in said
    assert "without a word" not in said
    assert "showed last says why" in said
    assert distributed._first_cause(GoneStore(), place, ValueError("own")) is None


def test_torch_distributed_is_imported_in_few_places():
    source = Path(distributed.__file__).parents[1]
    found = {
        str(path.relative_to(source))
        for path in source.rglob("*.py")
        if "torch.distributed" in path.read_text("utf-8").replace("`torch.distributed`", "")
    }
    assert {place for place in found if not place.startswith("training/")} == {
        "runtime/distributed.py"
    }
