"""Readers and retrievers by name or configuration file, built without weights.

Sizes are those of the published configurations; vocabulary and widths are facts about them, not
copies of anyone's files.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BertConfig,
    LlamaConfig,
    PretrainedConfig,
    T5Config,
    T5EncoderModel,
)

from atlas_lm.retriever.saving import TOWERS, read_stated
from atlas_lm.runtime.errors import InputError, did_you_mean, first_line
from atlas_lm.runtime.packages import PREFIX, resolve_model_path

Role = Literal["reader", "retriever"]

_T5 = {
    "small": (512, 2048, 64, 8, 6),
    "base": (768, 3072, 64, 12, 12),
    "large": (1024, 4096, 64, 16, 24),
    "3b": (1024, 16384, 128, 32, 24),
    "11b": (1024, 65536, 128, 128, 24),
}
"""T5 (2019): width, inner width, width of a head, heads, layers of each stack."""
_T5_V11 = {
    "small": (512, 1024, 64, 6, 8),
    "base": (768, 2048, 64, 12, 12),
    "large": (1024, 2816, 64, 16, 24),
    "xl": (2048, 5120, 64, 32, 24),
    "xxl": (4096, 10240, 64, 64, 24),
}
"""T5 v1.1 and what was trained on from it: lm-adapt and flan."""
_SMOLLM2 = {
    "135m": (576, 1536, 9, 3, 30),
    "360m": (960, 2560, 15, 5, 32),
    "1.7b": (2048, 8192, 32, 32, 24),
}
"""SmolLM2: width, inner width, heads, heads of keys and values, layers."""
_BERT = {
    "bert-base": (768, 3072, 12, 12, 30522, 512),
    "bert-large": (1024, 4096, 16, 24, 30522, 512),
    "contriever": (768, 3072, 12, 12, 30522, 512),
    "minilm": (384, 1536, 12, 6, 30522, 512),
    "contriever-nano": (256, 512, 4, 0, 16000, 128),
}
"""BERT-like encoders: width, inner width, heads, layers, vocabulary, positions."""


def _t5(shape: tuple[int, int, int, int, int], **more: Any) -> T5Config:
    width, inner, head, heads, layers = shape
    return T5Config(
        d_model=width,
        d_ff=inner,
        d_kv=head,
        num_heads=heads,
        num_layers=layers,
        num_decoder_layers=layers,
        vocab_size=32128,
        decoder_start_token_id=0,
        **more,
    )


def _readers() -> dict[str, PretrainedConfig]:
    gated = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
    found: dict[str, PretrainedConfig] = {f"t5-{size}": _t5(shape) for size, shape in _T5.items()}
    for family in ("t5-v1.1", "t5-lm-adapt", "flan-t5"):
        found |= {f"{family}-{size}": _t5(shape, **gated) for size, shape in _T5_V11.items()}
    for size, (width, inner, heads, shared, layers) in _SMOLLM2.items():
        found[f"smollm2-{size}"] = LlamaConfig(
            hidden_size=width,
            intermediate_size=inner,
            num_attention_heads=heads,
            num_key_value_heads=shared,
            num_hidden_layers=layers,
            vocab_size=49152,
            tie_word_embeddings=True,
            max_position_embeddings=8192,
        )
    return found


def _retrievers() -> dict[str, PretrainedConfig]:
    return {
        name: BertConfig(
            hidden_size=width,
            intermediate_size=inner,
            num_attention_heads=heads,
            num_hidden_layers=layers,
            vocab_size=vocabulary,
            max_position_embeddings=positions,
        )
        for name, (width, inner, heads, layers, vocabulary, positions) in _BERT.items()
    }


@dataclass(frozen=True, kw_only=True)
class PlannedModel:
    """A reader or retriever that need not exist: its configuration is enough."""

    name: str
    """As it was asked for."""
    config: Any = field(compare=False)
    """The transformers configuration."""
    role: Role
    """Which half it is."""

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers of each stack: encoder and decoder, or the one there is."""
        if self.is_fid:
            decoder = getattr(self.config, "num_decoder_layers", None)
            return self.config.num_layers, decoder or self.config.num_layers
        return (int(self.config.num_hidden_layers),)

    @property
    def is_fid(self) -> bool:
        """Whether it is read by Fusion-in-Decoder, not by one prompt."""
        return self.role == "reader" and bool(self.config.is_encoder_decoder)

    @property
    def dim(self) -> int:
        """Width of its states: of a retriever, the dim of its embeddings."""
        return int(self.config.hidden_size)

    @property
    def longest(self) -> int | None:
        """Tokens it reads at most; None where there is no limit."""
        return getattr(self.config, "max_position_embeddings", None)

    def with_layers(self, layers: tuple[int, ...]) -> PlannedModel:
        """Return the same model with other depths."""
        config = type(self.config).from_dict(self.config.to_dict())
        name = f"{self.name} of {layers} layers"
        if self.is_fid:
            config.num_layers, config.num_decoder_layers = layers
        else:
            config.num_hidden_layers = layers[0]
            if getattr(config, "layer_types", None):
                config.layer_types = config.layer_types[: layers[0]]
        return dataclasses.replace(self, config=config, name=name)

    def built(self, device: torch.device | str = "meta") -> nn.Module:
        """Return the model with weights of no value: on ``meta``, with none at all."""
        with torch.device(device):
            module: Any = self._module()
        untied = getattr(self.config, "is_gated_act", False) or not getattr(
            self.config, "tie_word_embeddings", True
        )
        if self.is_fid and untied and self.config.model_type == "t5":
            head = module.get_output_embeddings()
            head.weight = nn.Parameter(torch.empty_like(head.weight))
        built: nn.Module = module
        return built

    def _module(self) -> Any:
        if self.role == "reader":
            auto = AutoModelForSeq2SeqLM if self.is_fid else AutoModelForCausalLM
            return auto.from_config(self.config)
        if self.config.model_type in ("t5", "mt5", "umt5"):
            return T5EncoderModel(self.config)
        options = {"add_pooling_layer": False} if self.config.model_type == "bert" else {}
        return AutoModel.from_config(self.config, **options)


def planned_model(name: str, role: Role) -> PlannedModel:
    """Return a model by a known name, a directory, a ``config.json``, ``package:NAME`` or Hub id.

    Raises:
        InputError: it is none of these, or of a kind that cannot be counted.
    """
    known = _readers() if role == "reader" else _retrievers()
    wanted = _normal(name)
    if wanted in known:
        return PlannedModel(name=name, config=known[wanted], role=role)
    if not (name.startswith(PREFIX) or "/" in name or Path(name).exists()):
        raise InputError(
            f"--{role} {name!r}: no known size and no such directory{did_you_mean(wanted, known)}; "
            f"give a directory, a config.json, {PREFIX}NAME, or one of: {', '.join(known)}"
        )
    place = _configuration(name, role)
    try:
        config = AutoConfig.from_pretrained(place)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"--{role} {name}: no readable config.json ({first_line(error)})"
        ) from error
    if role == "retriever" and getattr(config, "is_decoder", False):
        raise InputError(f"--retriever {name}: a decoder; give an encoder such as contriever")
    return PlannedModel(name=name, config=config, role=role)


def known_names(role: Role) -> list[str]:
    """Return the names of the sizes that are known without a file."""
    return list(_readers() if role == "reader" else _retrievers())


def _configuration(name: str, role: Role) -> Path | str:
    place = resolve_model_path(name)
    if role == "retriever" and isinstance(place, Path) and place.is_dir():
        weights, _, tied = read_stated(place)
        place = weights if tied else weights / TOWERS[0]
    if isinstance(place, Path) and place.is_dir() and not (place / "config.json").is_file():
        gguf = sorted(place.glob("*.gguf"))
        if gguf:
            raise InputError(
                f"{name}: packed weights ({gguf[0].name}) without a config.json; "
                "name the size instead, such as smollm2-135m"
            )
    return place


def _normal(name: str) -> str:
    """Return a name as the tables spell it: ``google/t5-v1_1-base`` is ``t5-v1.1-base``."""
    plain = name.lower().rsplit("/", 1)[-1] if not Path(name).exists() else name
    plain = plain.replace("_", ".") if plain.startswith("t5-v1") else plain.replace("_", "-")
    for spelling, ours in _ALSO.items():
        plain = plain.replace(spelling, ours)
    return plain


_ALSO = {
    "smollm2-135m-instruct": "smollm2-135m",
    "smollm2-360m-instruct": "smollm2-360m",
    "smollm2-1.7b-instruct": "smollm2-1.7b",
    "bert-base-uncased": "bert-base",
    "bert-large-uncased": "bert-large",
    "all-minilm-l6-v2": "minilm",
    "contriever-msmarco": "contriever",
    "package:atlas-lm/contriever-nano": "contriever-nano",
}
