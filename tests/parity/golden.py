"""The published implementation's own numbers: `load_golden`, and builders of its tiny models.

The two files in ``golden/`` hold the outputs of the original Atlas code on fixed tiny models; the
JSON file says what every key means, in which unit. Weights are given, so no code is shared.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import (
    BertModel,
    PreTrainedTokenizerFast,
    T5ForConditionalGeneration,
)

from atlas_lm.types import Passage

FOLDER = Path(__file__).parent / "golden"
RTOL = 1e-4
"""Tolerance of float32 arrays, relative to the array's largest magnitude."""


@functools.cache
def load_golden() -> Mapping[str, Any]:
    """Return every key of the golden file: tensors, and decoded JSON where the bytes are JSON.

    Floats keep their width (float16, 32, 64). ``tok/*`` stay strings (a tokenizer.json each).
    ``meta`` is the describing JSON file (units, options, gradient names).
    """
    values: dict[str, Any] = {}
    with np.load(FOLDER / "reference_golden.npz", allow_pickle=False) as arrays:
        for key in arrays.files:
            values[key] = _decode(key, arrays[key])
    values["meta"] = json.loads((FOLDER / "reference_golden.json").read_text("utf-8"))
    return values


def _decode(key: str, array: np.ndarray) -> Any:
    if array.dtype != np.uint8:
        return torch.from_numpy(array.copy())
    text = array.tobytes().decode("utf-8")
    return text if key.startswith("tok/") else json.loads(text)


def state_dict(model: str) -> dict[str, Tensor]:
    """Return the weights of ``t5_v11`` or ``bert``, with their transformers names."""
    prefix = f"{model}/state/"
    golden = load_golden()
    return {key.removeprefix(prefix): golden[key] for key in golden if key.startswith(prefix)}


def bert_tokenizer() -> PreTrainedTokenizerFast:
    """Return the retriever's WordPiece tokenizer (1,000 pieces)."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(load_golden()["tok/bert_json"]),
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def t5_tokenizer() -> PreTrainedTokenizerFast:
    """Return the reader's Unigram tokenizer with ``<extra_id_0..99>`` as special tokens.

    Without that registration a target that begins with a sentinel gains a leading piece.
    """
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(load_golden()["tok/t5_json"]),
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=[f"<extra_id_{number}>" for number in range(100)],
    )


def write_bert(path: Path) -> Path:
    """Write the golden Contriever as a plain transformers directory and return ``path``."""
    return _write(path, "bert", "BertModel", bert_tokenizer(), state_dict("bert"))


def write_t5(path: Path) -> Path:
    """Write the golden T5 v1.1 as a plain transformers directory and return ``path``.

    The file holds ``shared.weight`` and a different ``lm_head.weight``: only so does
    `from_pretrained` of transformers 5 keep the head untied.
    """
    return _write(
        path, "t5_v11", "T5ForConditionalGeneration", t5_tokenizer(), state_dict("t5_v11")
    )


def load_bert(path: Path) -> BertModel:
    """Write the golden Contriever below ``path`` and open it with transformers, in eval mode."""
    return BertModel.from_pretrained(write_bert(path), add_pooling_layer=False).eval()


def load_t5(path: Path) -> T5ForConditionalGeneration:
    """Write the golden T5 below ``path`` and open it with transformers, untied, in eval mode."""
    model = T5ForConditionalGeneration.from_pretrained(write_t5(path)).eval()
    assert not torch.equal(model.lm_head.weight, model.shared.weight)
    return model


def golden_passages() -> list[list[Passage]]:
    """Return the batch's passages, five for each of the two queries."""
    return [
        [Passage(**fields) for fields in row] for row in load_golden()["batch/strings"]["passages"]
    ]


def golden_queries() -> list[str]:
    """Return the batch's two queries."""
    return list(load_golden()["batch/strings"]["queries"])


def golden_targets() -> list[str]:
    """Return the batch's two targets, sentinels included."""
    return list(load_golden()["batch/strings"]["targets"])


def assert_golden(actual: Tensor, key: str, *, rtol: float = RTOL) -> None:
    """Compare with a golden array: ``rtol`` times the array's largest magnitude, everywhere."""
    expected = load_golden()[key].to(torch.float64)
    error = (actual.detach().to(torch.float64) - expected).abs().max().item()
    bound = rtol * expected.abs().max().item()
    assert error <= bound, f"{key}: off by {error:.3g}, allowed {bound:.3g}"


def _write(
    path: Path,
    name: str,
    architecture: str,
    tokenizer: PreTrainedTokenizerFast,
    state: dict[str, Tensor],
) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    config = {**load_golden()["config"][name], "architectures": [architecture]}
    config.pop("_name_or_path")
    (path / "config.json").write_text(json.dumps(config), "utf-8")
    tokenizer.save_pretrained(path)
    weights = {key: value.contiguous() for key, value in state.items()}
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    return path
