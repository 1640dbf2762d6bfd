"""One update of both halves: alone, over the parallel path with one process, and over two.

    python benchmarks/parallel_step.py --json
    python benchmarks/parallel_step.py --processes 1 2 --repeats 15

For each number of processes `torchrun` starts this file again. There, the same global batch is
updated in turns: by process 0 alone as if nothing had been started (the others wait), and by all
of them with DDP and a sharded index. Turns alternate, so that what else the machine does falls on
both; a ratio is the median of the ratios of neighbouring turns. ``cpu`` is processor time of
process 0 in place of time on the wall: on a busy machine it tells an overhead apart from waiting.
One thread a process.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from atlas_lm.data.tinymodels import tiny_reader, tiny_retriever
from atlas_lm.index import FlatIndex
from atlas_lm.index.files import Fingerprint
from atlas_lm.index.sharded import ShardedIndex
from atlas_lm.model import Atlas, AtlasConfig
from atlas_lm.passages.store import PassageStore
from atlas_lm.reader.fid import FiDReader
from atlas_lm.retrieve import ContextConfig
from atlas_lm.runtime import distributed
from atlas_lm.training import Batches, TrainingConfig, make_optimizers, update
from atlas_lm.types import Example

WORDS = [f"w{number}" for number in range(8000)]
PASSAGES, LENGTH, N_CONTEXT, DIM, LAYERS = 2000, 50, 8, 256, 3


@dataclass(frozen=True)
class Arm:
    """A model with its optimizers and its place in the data."""

    atlas: Atlas
    config: TrainingConfig
    optimizers: object
    batches: Batches

    def step(self) -> None:
        """Make one update."""
        update(
            self.atlas,
            self.batches.take(self.config.accumulation_steps),
            self.optimizers,
            self.config,
            step=1,
            train_retriever=True,
        )


@contextmanager
def as_if_alone() -> Iterator[None]:
    """Hide the process group from the package."""
    known = distributed.is_started
    distributed.is_started = lambda: False
    try:
        yield
    finally:
        distributed.is_started = known


def make_atlas(store: PassageStore, vectors: torch.Tensor, *, shared: bool) -> Atlas:
    made = tiny_reader(WORDS, dim=DIM, layers=LAYERS)
    settings = replace(made.settings, text_maxlength=2 * LENGTH, encoder_chunks=4)
    atlas = Atlas(
        tiny_retriever(WORDS, dim=DIM, layers=LAYERS),
        FiDReader(made.model, made.tokenizer, settings),
        AtlasConfig(context=ContextConfig(n_context=N_CONTEXT, retriever_n_context=N_CONTEXT)),
    )
    print_of = Fingerprint("random", "{text}", "mean", "dot", 16, DIM, "corpus")
    index = FlatIndex(vectors, fingerprint=print_of)
    atlas.index, atlas.store = ShardedIndex(index) if shared else index, store
    return atlas


def make_arm(
    store: PassageStore, vectors: torch.Tensor, config: TrainingConfig, shared: bool
) -> Arm:
    drawn = random.Random(1)
    examples = [
        Example(f"q{n}", " ".join(drawn.choices(WORDS, k=12)), " ".join(drawn.choices(WORDS, k=3)))
        for n in range(256)
    ]
    atlas = make_atlas(store, vectors, shared=shared)
    return Arm(atlas, config, make_optimizers(atlas, config), Batches(examples, config.bsz, 0))


def write_passages(path: Path) -> Path:
    drawn = random.Random(0)
    with path.open("w") as file:
        for n in range(PASSAGES):
            text = " ".join(drawn.choices(WORDS, k=drawn.randint(LENGTH // 2, LENGTH)))
            file.write(json.dumps({"id": f"p{n}", "text": text}) + "\n")
    return path


def timed(arm: Arm) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    arm.step()
    return time.perf_counter() - wall, time.process_time() - cpu


def turns(alone: Arm, together: Arm, repeats: int) -> dict[str, float]:
    """Return medians: seconds of each arm, and the ratio together / alone."""
    here = distributed.world()
    measured: list[tuple[tuple[float, float], tuple[float, float]]] = []
    for turn in range(repeats + 2):
        one = (0.0, 0.0)
        if here.is_main:
            with as_if_alone():
                one = timed(alone)
        distributed.barrier()
        other = timed(together)
        distributed.barrier()
        if turn >= 2:
            measured.append((one, other))
    if not here.is_main:
        return {}
    result = {}
    for place, kind in enumerate(("wall", "cpu")):
        result[f"alone_{kind}_s"] = statistics.median(one[place] for one, _ in measured)
        result[f"together_{kind}_s"] = statistics.median(other[place] for _, other in measured)
        ratios = [other[place] / one[place] for one, other in measured]
        result[f"ratio_{kind}"] = statistics.median(ratios)
    return result


def measure(repeats: int, passages: Path) -> None:
    """What `torchrun` starts: measure, and let process 0 print JSON."""
    torch.set_num_threads(1)
    config = TrainingConfig(total_steps=10, bsz=8, dropout=0.0)
    with distributed.process_group() as here:
        store = PassageStore.open(passages)
        vectors = torch.randn((PASSAGES, DIM), generator=torch.Generator().manual_seed(0))
        with as_if_alone():
            alone = make_arm(store, vectors, config, shared=False)
        together = make_arm(store, vectors, config, shared=True)
        result = turns(alone, together, repeats)
        if here.is_main:
            print(json.dumps(result))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--passages", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.passages:
        measure(chosen.repeats, chosen.passages)
        return
    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        passages = write_passages(Path(scratch) / "passages.jsonl")
        for size in chosen.processes:
            results[size] = launched(size, chosen.repeats, passages)
    if chosen.json:
        print(json.dumps(results))
        return
    for size, result in results.items():
        print(f"{size} process(es): " + "  ".join(f"{k} {v:.3f}" for k, v in result.items()))


def launched(size: int, repeats: int, passages: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={size}", __file__]
    command += ["--repeats", str(repeats), "--passages", str(passages)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    main()
