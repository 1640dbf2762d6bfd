"""Open a transformers directory safely: safetensors only, errors that name the remedy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer
from transformers.utils import logging as library_logging

from atlas_lm.runtime.errors import InputError, first_line

TOKENIZERS = ("tokenizer.json", "*.model", "vocab.*")
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
        raise InputError(f"{place}: no readable model configuration ({first_line(error)})") from (
            error
        )


def load_tokenizer(place: Path | str) -> Any:
    """Return the tokenizer of a directory or Hub id.

    Raises:
        InputError: there is none, or it is unreadable.
    """
    remedy = "a reader's directory needs tokenizer.json or a sentencepiece file"
    if isinstance(place, Path) and not any(any(place.glob(name)) for name in TOKENIZERS):
        raise InputError(f"{place}: no tokenizer; {remedy}")
    try:
        return AutoTokenizer.from_pretrained(place)
    except Exception as error:
        raise InputError(
            f"{place}: no readable tokenizer ({first_line(error)}); {remedy}"
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
        InputError: the weights are pickled, damaged, or do not fill the model.
    """
    if isinstance(place, Path):
        check_directory(place)
    try:
        with _quiet():
            model, info = kind.from_pretrained(
                place, use_safetensors=True, output_loading_info=True, **keywords
            )
    except Exception as error:
        raise InputError(
            f"{place}: the weights cannot be opened ({first_line(error)}); "
            "expected safetensors that fit config.json"
        ) from error
    check_filled(place, info)
    return model


def check_filled(place: Path | str, info: Mapping[str, Any]) -> None:
    """Check that no tensor of a model was left as it was drawn, by transformers' loading info.

    Raises:
        InputError: the weights lack one.
    """
    if missing := sorted(info["missing_keys"]):
        raise InputError(
            f"{place}: {len(missing)} tensors are missing, {missing[0]} among them; "
            "the weights do not belong to this model's configuration"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the library's warnings: what they warn of here is checked, or meant."""
    level = library_logging.get_verbosity()
    library_logging.set_verbosity_error()
    try:
        yield
    finally:
        library_logging.set_verbosity(level)
