"""The dtypes vectors are stored in, and their names in files, on the command line and in plans."""

from __future__ import annotations

import torch

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""By the names that files have for them."""
SHORT = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
"""What the command line and plans call them."""
LONG = {short: name for name, short in SHORT.items()}
"""The other way round."""


def name_of(dtype: torch.dtype) -> str:
    """Return the name of any dtype as files have it: ``float16``."""
    return str(dtype).removeprefix("torch.")
