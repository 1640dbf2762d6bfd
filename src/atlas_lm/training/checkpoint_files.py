"""The files of a checkpoint: read back, and linked."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

from atlas_lm.runtime.intact import read_facts
from atlas_lm.training import shares
from atlas_lm.training.state import TrainState, load_weights, part_of

FORMAT_VERSION = 3


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint holds of a state."""

    files: Mapping[str, Mapping[str, Tensor]]
    facts: Mapping[str, Any]
    version: int
    """Of the index's vectors."""
    index_file: Path | None
    """A file that holds these very vectors: it is linked, and ``files`` has none of them."""
    best: str
    """Name of the checkpoint that is never removed; empty for none."""

    def copy(self) -> Snapshot:
        """Return a copy that training does not change, on the CPU."""
        files = {
            name: {key: value.detach().to("cpu", copy=True) for key, value in tensors.items()}
            for name, tensors in self.files.items()
        }
        return replace(self, files=files, facts=json.loads(json.dumps(self.facts)))


def load_model(path: str | Path, halves: Mapping[str, nn.Module]) -> dict[str, Any]:
    """Give ``halves`` the weights of a checkpoint, of however many processes; return its facts.

    Raises:
        InputError: it is no whole checkpoint, or that of another model.
    """
    path = Path(path)
    facts = read_facts(path, format_version=FORMAT_VERSION)
    if (path / shares.SHARES).is_dir():
        room = shares.empty_like_saved(path / shares.SHARES, {})
        shares.read_shares(room, path / shares.SHARES)
        saved = part_of(room, "model", "/")
    else:
        saved = load_file(path / "model.safetensors")
    for name, half in halves.items():
        load_weights(half, part_of(saved, name), name)
    return facts


def read_tensors(
    path: Path, facts: Mapping[str, Any], state: TrainState
) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of a checkpoint by file; those in shares in the state's own shares."""
    names = [name for name in facts["files"] if "/" not in name]
    tensors = {Path(name).stem: load_file(path / name) for name in names}
    if len(names) < len(facts["files"]):
        room = shares.empty_like_saved(path / shares.SHARES, state.places())
        shares.read_shares(room, path / shares.SHARES)
        tensors |= {name: part_of(room, name, "/") for name in ("model", "optimizer")}
    return tensors


def contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors that own exactly their own bytes, so that no hidden storage is written."""
    return {
        name: tensor
        if tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes
        else tensor.clone().contiguous()
        for name, tensor in tensors.items()
    }


def link(source: Path, target: Path) -> None:
    """Make ``target`` the same file as ``source``; a copy where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
