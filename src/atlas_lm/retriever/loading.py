"""Directories to encoders: plain transformers, sentence-transformers, DPR, Hub ids, packages.

Only safetensors are read, no code from a model is run, and a weight that is missing is an error:
no part of an encoder is left as it was drawn.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import snapshot_download
from transformers import (
    MODEL_FOR_TEXT_ENCODING_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForTextEncoding,
    AutoTokenizer,
    BertConfig,
    BertModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as hf_logging

from atlas_lm.retriever.reference_layernorm import use_reference_layernorm_
from atlas_lm.retriever.settings import EncoderSettings
from atlas_lm.runtime.errors import InputError, first_line
from atlas_lm.runtime.packages import resolve_model_path

HUB_PATTERNS = ["*.json", "*.txt", "*.model", "*.safetensors"]
"""Files taken from the Hub: configuration, vocabulary and weights, nothing pickled."""


@dataclass(frozen=True)
class Tower:
    """One encoder with its tokenizer."""

    encoder: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def dim(self) -> int:
        """The number of components of a token's vector."""
        return int(self.encoder.config.hidden_size)


def local_directory(name_or_path: str | Path) -> Path:
    """Return the directory that a path, a ``package:NAME`` or a Hub id stands for.

    Raises:
        InputError: it is neither a directory nor a Hub id that can be had.
    """
    resolved = resolve_model_path(str(name_or_path))
    if Path(resolved).is_dir():
        return Path(resolved)
    try:
        return Path(snapshot_download(str(resolved), allow_patterns=HUB_PATTERNS))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{name_or_path}: neither a directory nor a Hub model that can be had "
            f"({first_line(error)}); give a directory, package:NAME or a Hub id"
        ) from error


def load_tower(path: Path, settings: EncoderSettings) -> Tower:
    """Return the encoder and tokenizer of a transformers directory, in eval mode and float32.

    The pooler of BERT-like models is left out: no embedding here uses it.

    Raises:
        InputError: there is no model, its weights are pickled or do not fit, or it reads fewer
            tokens than ``settings`` asks for.
    """
    if not (path / "config.json").is_file():
        raise InputError(f"{path}: holds no config.json; expected a transformers directory")
    try:
        with _quietly():
            encoder, loading = _load_encoder(path, AutoConfig.from_pretrained(path))
            tokenizer = AutoTokenizer.from_pretrained(path)
    except InputError:
        raise
    except Exception as error:
        raise InputError(_why_unreadable(path, error)) from error
    _check_complete(path, loading)
    _check_lengths(path, encoder, settings)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise InputError(
            f"{path}: the tokenizer has neither a pad nor an end token; add a pad_token"
        )
    if settings.reference_layernorm and use_reference_layernorm_(encoder) == 0:
        raise InputError(f"{path}: reference_layernorm is on, but the encoder has no LayerNorm")
    encoder.config.use_cache = False  # nothing is generated
    return Tower(encoder.eval(), tokenizer)


def _load_encoder(path: Path, config: Any) -> tuple[PreTrainedModel, Mapping[str, Iterable[Any]]]:
    if config.model_type == "dpr":
        return _load_dpr(path, config)
    kind = type(config)
    auto, mapping = AutoModel, MODEL_MAPPING
    if kind in MODEL_FOR_TEXT_ENCODING_MAPPING:  # T5's encoder alone; BERT's as ever
        auto, mapping = AutoModelForTextEncoding, MODEL_FOR_TEXT_ENCODING_MAPPING
    has_pooler = "add_pooling_layer" in inspect.signature(mapping[kind].__init__).parameters
    options = {"add_pooling_layer": False} if has_pooler else {}
    encoder, loading = auto.from_pretrained(
        path, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **options
    )
    return encoder, loading


def _load_dpr(path: Path, config: Any) -> tuple[PreTrainedModel, Mapping[str, Iterable[Any]]]:
    """Return the BERT inside a DPR encoder; `AutoModel` would take either tower for questions."""
    architecture = (config.architectures or ["none"])[0]
    towers = {"DPRQuestionEncoder": "question_encoder", "DPRContextEncoder": "ctx_encoder"}
    if architecture not in towers:
        raise InputError(f"{path}/config.json: architecture {architecture!r} is not a DPR encoder")
    if config.projection_dim:
        raise InputError(
            f"{path}/config.json: projection_dim={config.projection_dim}; only DPR encoders "
            "without a projection are read"
        )
    model, loading = getattr(transformers, architecture).from_pretrained(
        path, use_safetensors=True, output_loading_info=True
    )
    shape = {**config.to_dict(), "model_type": "bert", "architectures": ["BertModel"]}
    bert = BertModel(BertConfig.from_dict(shape), add_pooling_layer=False)
    bert.load_state_dict(getattr(model, towers[architecture]).bert_model.state_dict())
    return bert, loading


def _check_complete(path: Path, loading: Mapping[str, Iterable[Any]]) -> None:
    missing = sorted(map(str, loading["missing_keys"]))
    misfits = sorted(map(str, loading.get("mismatched_keys", ())))
    if missing or misfits:
        raise InputError(
            f"{path}: the weights lack {len(missing)} and misfit {len(misfits)} of the encoder's "
            f"tensors, first {(missing + misfits)[0]}; this is not a complete encoder"
        )


def _check_lengths(path: Path, encoder: PreTrainedModel, settings: EncoderSettings) -> None:
    limit = position_limit(encoder)
    for name in ("query_maxlength", "passage_maxlength"):
        if limit is not None and getattr(settings, name) > limit:
            raise InputError(
                f"{path}: {name}={getattr(settings, name)}, but the encoder reads at most {limit} "
                f"tokens; pass --{name.replace('_', '-')} {limit} or less"
            )


def position_limit(encoder: PreTrainedModel) -> int | None:
    """Return the longest sequence the encoder has positions for; None where there is no limit."""
    limit = getattr(encoder.config, "max_position_embeddings", None)
    table = getattr(getattr(encoder, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    # RoBERTa's family counts positions from the pad's own index + 1.
    return limit if limit is None or padding is None else limit - padding - 1


@contextmanager
def _quietly() -> Iterator[None]:
    """Silence transformers' load report and bars: what matters in it is checked here."""
    verbosity, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if bars:
            hf_logging.enable_progress_bar()


def _why_unreadable(path: Path, error: Exception) -> str:
    if any(path.glob("*.bin")) and not any(path.glob("*.safetensors")):
        return (
            f"{path}: its weights are pickled (*.bin), which can run code, and are not opened; "
            "where you trust them, save them as model.safetensors with save_pretrained"
        )
    return f"{path}: not a model that transformers can open ({first_line(error)})"
