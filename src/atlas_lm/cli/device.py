"""``--device``: a device that is there, or an error that says what is."""

from __future__ import annotations

import argparse


def device(name: str) -> str:
    """Return ``name``, the device of a command; for `argparse`.

    Raises:
        argparse.ArgumentTypeError: it is no device, or none that PyTorch sees here.
    """
    if name == "cpu":
        return name
    import torch

    try:
        wanted = torch.device(name)
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(
            f"{name!r} is no device; give cpu, cuda, cuda:1 or mps"
        ) from error
    if wanted.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (wanted.index or 0) >= count:
            raise argparse.ArgumentTypeError(
                f"{name}: PyTorch sees {count} GPUs here; atlas-lm doctor shows them"
            )
    if wanted.type == "mps" and not torch.backends.mps.is_available():
        raise argparse.ArgumentTypeError(f"{name}: PyTorch sees no such device here")
    return name
