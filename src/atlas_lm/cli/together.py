"""What the processes of one run do together, and what process 0 does for all."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float

from atlas_lm.cli.index_build import warn_of_truncation
from atlas_lm.evaluation import measure
from atlas_lm.evaluation.gold import check_gold
from atlas_lm.evaluation.measure import measure_part
from atlas_lm.index import FlatIndex, PassageFiles, build
from atlas_lm.index.build import PASSAGES_AT_A_TIME, Embed, Partial
from atlas_lm.index.shares import gather_vectors
from atlas_lm.index.storage import map_rows
from atlas_lm.model import Atlas
from atlas_lm.passages.store import PassageStore
from atlas_lm.retriever import EmbeddingReport
from atlas_lm.runtime import distributed, logs
from atlas_lm.runtime.launched import short_grace
from atlas_lm.types import Example, Passage


@contextmanager
def joined(device: str, *, timeout_minutes: float) -> Iterator[str]:
    """Join the processes that were started with this one; yield the device of this one.

    Only process 0 shows notices, warnings and progress; errors are shown by all.

    Raises:
        OtherProcessFailed: another process has failed, or has gone.
    """
    with distributed.process_group(device, timeout=60 * timeout_minutes) as world:
        logs.console.quiet = not world.is_main
        if world.size > 1:
            logs.notice(f"{world.size} processes")
            if said := short_grace():
                logs.warn(said)
        on_gpu = device == "cuda" and distributed.is_started()
        yield f"cuda:{torch.cuda.current_device()}" if on_gpu else device


def measure_together(
    atlas: Atlas, examples: Sequence[Example], *, ks: Sequence[int]
) -> dict[str, float]:
    """Return the mean of every metric; each process asks its share of the examples. Collective.

    All ask as many batches, for they search together: where the examples do not divide evenly,
    some are asked twice and counted once.

    Raises:
        InputError: as `measure`, of all examples, on every process.
    """
    world = distributed.world()
    if world.size == 1:
        return measure(atlas, examples, ks=ks).metrics.means()
    asked = range(world.rank, -(-len(examples) // world.size) * world.size, world.size)
    check_gold(atlas, examples)
    records = measure_part(atlas, [examples[n % len(examples)] for n in asked], ks=ks).records
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
    for place, record in zip(asked, records, strict=True):
        for name, value in record.metrics.items() if place < len(examples) else ():
            sums[name] = [sums[name][0] + value, sums[name][1] + 1]
    totals: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
    for part in distributed.gather_json(sums):
        for name, (total, count) in part.items():
            totals[name] = [totals[name][0] + total, totals[name][1] + count]
    return {name: total / count for name, (total, count) in totals.items()}


def build_index(atlas: Atlas, store: PassageStore, path: Path, *, step: int = 0) -> None:
    """Embed every passage with the model's passage encoder into a new index at ``path``.

    Of several processes each embeds its share. How many passages lost their end is said.
    Collective.

    Raises:
        InputError: an embedding is not finite, or the disk is full; on every process.
    """
    retriever, report = atlas.trained_retriever, EmbeddingReport()
    embed = partial(retriever.embed_corpus, report=report)
    if distributed.world().size > 1:
        _build_together(atlas, store, path, embed, step)
    else:
        build(store, embed, path, fingerprint=atlas.fingerprint(store), step=step)
    truncated = int(distributed.gather_numbers([report.truncated]).sum())
    warn_of_truncation(retriever, replace(report, truncated=truncated))


def _build_together(
    atlas: Atlas, store: PassageStore, path: Path, embed_corpus: Embed, step: int
) -> None:
    """Build the index; each process embeds its share.

    A share is written to a directory beside ``path`` as it is embedded. What a killed run left
    there is gone on with, by as many processes.
    """
    here, dim = distributed.world(), atlas.trained_retriever.dim
    fingerprint, own = atlas.fingerprint(store), here.share(len(store))
    name = f"{path.name}.share-{here.rank}-of-{here.size}"
    share = Partial(path.with_name(name), fingerprint, "float16", step)
    vectors = torch.empty((0, dim), dtype=torch.float16)
    with distributed.in_pieces() as meet:

        def embed(passages: Sequence[Passage]) -> Float[torch.Tensor, "n dim"]:
            fresh = embed_corpus(passages)
            meet()
            return fresh

        share.embed_rest(store, embed, PASSAGES_AT_A_TIME, own=own)
        vectors = map_rows(share.vectors, torch.float16, len(own), dim) if own else vectors
    whole = gather_vectors(vectors, path.parent)
    with distributed.agreed():
        if whole is not None:
            files = PassageFiles.of(store)
            FlatIndex(whole, fingerprint=fingerprint, step=step, passages=files).save(path)
    shutil.rmtree(share.path)
    distributed.barrier()
    if here.is_main:
        for left in path.parent.glob(f"{path.name}.share-*-of-*.partial"):
            shutil.rmtree(left, ignore_errors=True)
