"""A contrastive run on disk: weights, optimizer, momentum encoder and queue, so that it goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.files import atomic_directory
from atlas_lm.runtime.intact import (
    drop_beyond,
    full_checkpoint_disk_explained,
    newest_whole,
    step_directories,
    step_directory,
    sweep,
    write_facts,
)

FORMAT_VERSION = 1
ADAM = ("step", "exp_avg", "exp_avg_sq")


class PretrainCheckpoints:
    """The last checkpoints of one run, each a directory that appears whole or not at all.

    Args:
        path: Where they lie.
        config: What decides the weights; a run goes on only with the same.
        keep_last: How many are kept.
    """

    def __init__(self, path: Path, config: Mapping[str, Any], *, keep_last: int = 2) -> None:
        self.path = path
        self.config = json.loads(json.dumps(config))
        self.keep_last = keep_last
        self._swept = False

    def all(self) -> list[Path]:
        """Return the checkpoints, oldest first."""
        return step_directories(self.path)

    def save(self, step: int, tensors: Mapping[str, Mapping[str, Tensor]]) -> Path:
        """Write a checkpoint, then remove those beyond ``keep_last``.

        Before the first, what a kill has left is removed: only then is the run surely ours.

        Raises:
            InputError: the disk is full; nothing half-written is left, older checkpoints stay.
        """
        if not self._swept:
            self._swept = True
            sweep(self.path)
        path = step_directory(self.path, step)
        needed = sum(tensor.nbytes for part in tensors.values() for tensor in part.values())
        with full_checkpoint_disk_explained(path, needed), atomic_directory(path) as temporary:
            for name, part in tensors.items():
                own = {key: value.detach().cpu().clone() for key, value in part.items()}
                save_file(own, temporary / f"{name}.safetensors")
            facts = {"format_version": FORMAT_VERSION, "step": step, "config": self.config}
            write_facts(temporary, facts, {})
        drop_beyond(self.path, self.keep_last)
        return path

    def load(self) -> tuple[int, dict[str, dict[str, Tensor]]]:
        """Return the newest checkpoint's step and tensors. Collective.

        Where the newest is damaged, that is said, it is set aside as ``damaged-step-...``, and the
        one before it is taken.

        Raises:
            InputError: there is none, none is whole, or it belongs to another recipe.
        """
        path, facts = newest_whole(self.path, format_version=FORMAT_VERSION)
        self._check(facts["config"])
        return facts["step"], {Path(name).stem: load_file(path / name) for name in facts["files"]}

    def _check(self, saved: Mapping[str, Any]) -> None:
        for key in sorted(saved.keys() | self.config.keys()):
            if saved.get(key) != self.config.get(key):
                raise InputError(
                    f"resume: {key} was {saved.get(key)!r} and is {self.config.get(key)!r}; "
                    "resume with the same recipe and the same data, or start anew in another "
                    "directory"
                )


def adam_tensors(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    """Return AdamW's moments as ``parameter/moment``; empty before the first update."""
    return {
        f"{name}/{key}": optimizer.state[parameter][key]
        for name, parameter in parameters.items()
        for key in ADAM
        if parameter in optimizer.state
    }


def restore_adam(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, nn.Parameter],
    tensors: Mapping[str, Tensor],
) -> None:
    """Take up the moments that `adam_tensors` returned."""
    for name, parameter in parameters.items():
        if f"{name}/step" in tensors:
            optimizer.state[parameter] = {
                key: tensors[f"{name}/{key}"]
                if key == "step"
                else tensors[f"{name}/{key}"].to(parameter.device)
                for key in ADAM
            }
