"""Weights of a decoder-only model: a transformers directory, a Hub id, or a GGUF file.

transformers reads a GGUF file three times over and takes half a minute for 100 MB, so the file is
converted once, into an ordinary directory in the cache, named by the file's SHA-256.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM, AutoTokenizer

from atlas_lm.reader.loading import (
    check_filled,
    load_config,
    load_tokenizer,
    load_weights,
)
from atlas_lm.runtime.errors import InputError, first_line
from atlas_lm.runtime.files import atomic_directory, sha256_file
from atlas_lm.runtime.logs import notice
from atlas_lm.runtime.packages import resolve_model_path
from atlas_lm.runtime.settings import cache_dir


def load(name_or_path: str | Path, *, dtype: torch.dtype) -> tuple[Any, Any]:
    """Return the model, in eval mode, and its tokenizer; pickled weights are never opened.

    Raises:
        InputError: there is no such model, it is no decoder-only language model, or its weights
            are pickled, damaged, or do not fill it.
    """
    place = model_directory(name_or_path)
    config = load_config(place)
    if config.is_encoder_decoder:
        raise InputError(f"{name_or_path}: an encoder-decoder; open it with the fid reader")
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise InputError(f"{name_or_path}: {config.model_type} is no decoder-only language model")
    tokenizer = load_tokenizer(place)
    return load_weights(AutoModelForCausalLM, place, config=config, dtype=dtype), tokenizer


def model_directory(name_or_path: str | Path) -> str | Path:
    """Return what transformers can open: a directory or a Hub id; a GGUF file is converted first.

    Raises:
        InputError: a directory holds several GGUF files and no ``config.json``.
    """
    place = resolve_model_path(str(name_or_path))
    if not isinstance(place, Path):
        return place
    if place.is_file() and place.suffix == ".gguf":
        return convert_gguf(place)
    files = sorted(place.glob("*.gguf"))
    if (place / "config.json").is_file() or not files:
        return place
    if len(files) > 1:
        raise InputError(
            f"{place}: holds {len(files)} GGUF files ({', '.join(file.name for file in files)}); "
            "name one of them"
        )
    return convert_gguf(files[0])


def convert_gguf(file: Path) -> Path:
    """Return the directory in the cache with this GGUF file's weights and tokenizer.

    Weights are float32, whatever the file's quantization. A kill leaves no half-made directory.

    Raises:
        InputError: the file is damaged, or of a kind that transformers does not read.
    """
    out = cache_dir() / "converted" / sha256_file(file)
    if (out / "config.json").is_file():
        return out
    notice(f"converting {file.name} to safetensors, once (about half a minute)")
    quantized, tokenizer = _read_gguf(file)
    values = quantized.config.to_dict()
    values.pop("quantization_config", None)
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(type(quantized.config).from_dict(values))
    plain.load_state_dict(quantized.state_dict(), assign=True)
    plain.tie_weights()
    with atomic_directory(out) as directory:
        plain.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
    return out


def _read_gguf(file: Path) -> tuple[Any, Any]:
    source = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    try:
        tokenizer = AutoTokenizer.from_pretrained(**source)
        model, info = AutoModelForCausalLM.from_pretrained(
            **source, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:
        raise InputError(
            f"{file}: not a GGUF file that transformers can read ({first_line(error)}); "
            "take a sound copy of it, or the model as a transformers directory"
        ) from error
    check_filled(file, info)
    return model, tokenizer
