"""Open a transformers directory safely: safetensors only, errors that name the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer

from atlas_lm.runtime.errors import InputError

PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def load_config(place: Path | str) -> Any:
    """Return the transformers config of a directory or Hub id.

    Raises:
        InputError: there is none, or it is unreadable.
    """
    if isinstance(place, Path):
        check_directory(place)
    try:
        return AutoConfig.from_pretrained(place)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{place}: no readable model configuration ({_first_line(error)})") from (
            error
        )


def load_tokenizer(place: Path | str) -> Any:
    """Return the tokenizer of a directory or Hub id.

    Raises:
        InputError: there is none, or it is unreadable.
    """
    try:
        return AutoTokenizer.from_pretrained(place)
    except Exception as error:
        raise InputError(
            f"{place}: no readable tokenizer ({_first_line(error)}); "
            "a reader's directory needs tokenizer.json or a sentencepiece file"
        ) from error


def check_directory(place: Path) -> None:
    """Check that a directory holds a configuration and weights that are not pickled.

    Raises:
        InputError: it is no directory, has no ``config.json``, or no safetensors weights.
    """
    if not place.is_dir():
        raise InputError(f"{place}: no such directory; give a transformers directory or a Hub id")
    if not (place / "config.json").is_file():
        raise InputError(f"{place}: no config.json; this is not a transformers directory")
    if any(place.glob("*.safetensors")):
        return
    pickles = [file.name for pattern in PICKLES for file in place.glob(pattern)]
    if pickles:
        raise InputError(
            f"{place / pickles[0]}: pickled weights can run code and are not opened; "
            "save the model with save_pretrained of a current transformers, "
            "which writes model.safetensors"
        )
    raise InputError(f"{place}: no weights; expected model.safetensors")


def load_weights(kind: Any, place: Path | str, **keywords: Any) -> Any:
    """Open a model with ``kind.from_pretrained``, never from pickled weights.

    Raises:
        InputError: the weights are missing, damaged or pickled.
    """
    if isinstance(place, Path):
        check_directory(place)
    try:
        return kind.from_pretrained(place, use_safetensors=True, **keywords)
    except Exception as error:
        raise InputError(
            f"{place}: the weights cannot be opened ({_first_line(error)}); "
            "expected safetensors that fit config.json"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
