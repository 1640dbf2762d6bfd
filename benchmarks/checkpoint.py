"""Time and size of a checkpoint, and the time to resume from it, against the bare tensors.

    python benchmarks/checkpoint.py --reader t5-small --retriever minilm --rounds 5

A state of both halves with AdamW's moments is saved and loaded as a run does it (checksums, fsync,
rename, verification), in turn with `safetensors` writing and reading the same tensors and nothing
else: every round measures both, and ratios are of one round. Prints a table as Markdown.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import load_file, save_file

from atlas_lm.planning import planned_model
from atlas_lm.runtime.files import sha256_file
from atlas_lm.training import Checkpoints, TrainingConfig, TrainState, make_optimizers
from atlas_lm.training.batches import Batches
from atlas_lm.types import Example


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reader", default="t5-small")
    parser.add_argument("--retriever", default="minilm")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", default=None, help="on which disk (default: a temporary place)")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    state = made_state(args.reader, args.retriever)
    base = Path(tempfile.mkdtemp(dir=args.out))
    try:
        rounds = [one_round(state, base, number) for number in range(args.rounds)]
    finally:
        shutil.rmtree(base)
    show(args, state, rounds)


def made_state(reader: str, retriever: str) -> TrainState:
    """Return a state after one update on gradients of ones."""
    torch.manual_seed(0)
    model = SimpleNamespace(
        reader=planned_model(reader, "reader").built("cpu"),
        retriever=planned_model(retriever, "retriever").built("cpu"),
    )
    config = TrainingConfig(total_steps=10)
    optimizers = make_optimizers(model, config)
    for half in optimizers.halves.values():
        for parameter in half.parameters.values():
            parameter.grad = torch.ones_like(parameter)
        half.update(0)
        half.drop_gradients()
    examples = [Example(str(number), "query", "target") for number in range(8)]
    return TrainState(model, optimizers, Batches(examples, 4, 0))


def one_round(state: TrainState, base: Path, number: int) -> dict[str, float]:
    """Save and load both ways; return seconds and bytes."""
    state.step = number + 1
    checkpoints = Checkpoints(base / "run", keep_last=1)
    times = {"save": timed(lambda: checkpoints.save(state))}
    path = checkpoints.latest()
    state.step += 100
    times["save in the background: pause"] = timed(lambda: checkpoints.save(state, wait=False))
    times["save in the background: until whole"] = timed(checkpoints.finish)
    path = checkpoints.latest()
    sizes = [file.stat().st_size for file in path.iterdir()]
    bare = base / "bare"
    bare.mkdir(exist_ok=True)
    tensors = state.tensors()
    times["save, tensors alone"] = timed(
        lambda: [save_file(part, bare / f"{name}.safetensors") for name, part in tensors.items()]
    )
    times["checksums"] = timed(lambda: [sha256_file(file) for file in path.iterdir()])
    times["resume"] = timed(lambda: checkpoints.load(state))
    times["load, tensors alone"] = timed(lambda: [load_file(file) for file in bare.iterdir()])
    return times | {"bytes": float(sum(sizes))}


def timed(work: object) -> float:
    started = time.perf_counter()
    work()  # type: ignore[operator]
    return time.perf_counter() - started


def show(args: argparse.Namespace, state: TrainState, rounds: list[dict[str, float]]) -> None:
    count = sum(p.numel() for part in state.modules.values() for p in part.parameters())
    print(f"{args.reader} and {args.retriever}: {count / 1e6:.1f}M parameters, both trained")
    size = rounds[-1]["bytes"]
    print(f"checkpoint: {size / 1e6:,.1f} MB, {size / count:.2f} bytes a parameter\n")
    print("| | seconds, median | MB/s | against, same round | |")
    print("| --- | --- | --- | --- | --- |")
    for name, bare in (
        ("save", "save, tensors alone"),
        ("checksums", "save, tensors alone"),
        ("save, tensors alone", None),
        ("save in the background: pause", "save"),
        ("resume", "load, tensors alone"),
        ("load, tensors alone", None),
    ):
        median = statistics.median(one[name] for one in rounds)
        ratio = statistics.median(one[name] / one[bare] for one in rounds) if bare else 1.0
        print(
            f"| {name} | {median:.2f} | {size / median / 1e6:,.0f} | {ratio:.2f}x | {bare or ''} |"
        )


if __name__ == "__main__":
    main()
