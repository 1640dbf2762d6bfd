"""What an encoder's vectors depend on beside its settings, as one string for an index to carry."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from atlas_lm.retriever.loading import Tower
from atlas_lm.retriever.settings import EncoderSettings
from atlas_lm.retriever.tokenization import tokenize
from atlas_lm.runtime.weights import plain_state

PIECES = 1024
"""Pieces of the vocabulary that are read as text to see how the tokenizer reads."""
TEXTS = (
    "",
    "The CAFÉ in Zürich\u2019s old town doesn't   e-mail\tx_y; naïve \ufb01nance\n(A/B) <b>!",
    "3.1415 10,000 ½ 2024-01-31 https://example.org/?q=1&r=2 @name #tag … \U0001f642 C++",
    "東京タワー 中文 안녕하세요 Привет مرحبا हिन्दी ελληνικά İstanbul e\u0301 \u200b\ufeff\u00ad",
)
"""Texts that tokenizers read in different ways: case, accents, spaces, digits, scripts."""
MAXLENGTH = 64
"""Tokens at which these are cut: which end of a text is kept shows too."""
_NO_PART_IN_VECTORS = re.compile(
    r"^_|dropout|dtype|initializer|label|classifier|^architectures$|^transformers_version$"
    r"|^(?!pad)\w+_token_id$|^use_cache$|^tie_|^problem_type$|^task_specific|^gradient_"
)
"""Fields of a configuration that leave the last hidden state as it is."""


def encoder_digest(tower: Tower, settings: EncoderSettings) -> str:
    """Return "WEIGHTS-READING": two digests which equal those of no other encoder.

    WEIGHTS is `weights_digest`; READING is of the configuration and of how the tokenizer reads.
    Neither depends on how the tokenizer is stored, nor on fields of a configuration that another
    release of transformers has and that are off.
    """
    configuration = json.dumps(
        _deciding(tower.encoder.config.to_diff_dict()), sort_keys=True, default=str
    )
    reading = f"{configuration}\n{_tokenizer_digest(tower.tokenizer)}"
    short = hashlib.sha256(reading.encode()).hexdigest()[:16]
    return f"{weights_digest(tower.encoder, settings)}-{short}"


def weights_digest(encoder: nn.Module, settings: EncoderSettings) -> str:
    """Return the SHA-256 of an encoder's weights: names in order, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    if settings.reference_layernorm:
        digest.update(b"reference_layernorm\n")
    for name, tensor in sorted(plain_state(encoder).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(content.numpy().data)
    return digest.hexdigest()


def _deciding(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields, of nested tables too, that are on and can change a vector."""
    return {
        name: _deciding(value) if isinstance(value, Mapping) else value
        for name, value in values.items()
        if value and not _NO_PART_IN_VECTORS.search(name)
    }


def _tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the SHA-256 of the vocabulary and of the tokens of `TEXTS` and of its own pieces."""
    vocabulary = sorted(tokenizer.get_vocab().items())
    pieces = [piece for piece, _ in vocabulary[:: -(-len(vocabulary) // PIECES) or 1]]
    read = tokenize(tokenizer, [*TEXTS, *pieces, " ".join(pieces)], MAXLENGTH)
    return hashlib.sha256(json.dumps([vocabulary, read.ids]).encode()).hexdigest()
