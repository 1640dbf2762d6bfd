"""How an encoder turns text into vectors: everything that a transformers directory does not say.

None of it is ever guessed. It is saved as ``bi_encoder.json`` beside the weights, read from the
files of sentence-transformers, or given by the user.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from atlas_lm.passages.format import FIELDS
from atlas_lm.runtime.errors import InputError, did_you_mean
from atlas_lm.runtime.structure import structure
from atlas_lm.runtime.templates import template_pieces

Pooling = Literal["mean", "cls", "last", "sqrt"]
"""How token vectors become one vector; see `atlas_lm.retriever.pooling`."""
Similarity = Literal["dot", "cosine"]
"""How a query and a passage are compared."""


@dataclass(frozen=True, kw_only=True)
class EncoderSettings:
    """The text-to-vector settings of a bi-encoder, saved with it."""

    pooling: Pooling
    """Mean of the token vectors, the first, the last, or their sum divided by sqrt(length)."""
    similarity: Similarity
    """Inner product or cosine; cosine makes every embedding one of length 1."""
    normalize: bool = False
    """Whether embeddings are scaled to length 1 although compared by inner product."""
    query_template: str = "{query}"
    """The text embedded for a query."""
    passage_template: str = "{title} {text}"
    """The text embedded for a passage; fields are title, text and section."""
    query_prompt: str = ""
    """Put before the query's text as it stands, as in ``query: ``."""
    passage_prompt: str = ""
    """Put before the passage's text as it stands, as in ``passage: ``."""
    query_maxlength: int = 256
    """Longest query, in tokens with the special ones; the rest is cut."""
    passage_maxlength: int = 256
    """Longest passage, in tokens with the special ones; the rest is cut."""
    lowercase: bool = False
    """Whether text is lower-cased before the tokenizer sees it."""
    reference_layernorm: bool = False
    """Whether every LayerNorm divides by the second moment's root, as in the original Atlas."""

    def __post_init__(self) -> None:
        _check_choice("pooling", self.pooling, get_args(Pooling))
        _check_choice("similarity", self.similarity, get_args(Similarity))
        template_pieces(self.query_template, ("query",), option="query_template", needs=("query",))
        template_pieces(self.passage_template, FIELDS, option="passage_template", needs=("text",))
        for name in ("query_maxlength", "passage_maxlength"):
            if getattr(self, name) < 3:
                raise InputError(f"{name}={getattr(self, name)}: allow at least 3 tokens")

    @property
    def unit_length(self) -> bool:
        """Whether embeddings have length 1."""
        return self.normalize or self.similarity == "cosine"

    def query_text(self, query: str) -> str:
        """Return the text that is embedded for a query."""
        return self.cased(self.query_prompt + self.query_template.format(query=query))

    def cased(self, text: str) -> str:
        """Return ``text`` in the case the tokenizer is to see."""
        return text.lower() if self.lowercase else text


def settings_from(
    stated: Mapping[str, Any], given: EncoderSettings | Mapping[str, Any] | None, *, place: str
) -> EncoderSettings:
    """Return what the directory states, with what the user gave in its stead.

    A whole `EncoderSettings` replaces everything; a mapping replaces single values.

    Raises:
        InputError: pooling or similarity is neither stated nor given; a key or value is unknown.
    """
    if isinstance(given, EncoderSettings):
        return given
    table = {**stated, **(given or {})}
    missing = [name for name in ("pooling", "similarity") if name not in table]
    if missing:
        options = {
            "pooling": "--pooling mean|cls|last|sqrt",
            "similarity": "--similarity dot|cosine",
        }
        raise InputError(
            f"{place}: does not say its {' and '.join(missing)}, and neither can be guessed; pass "
            f"{' '.join(options[name] for name in missing)} (in Python: settings=EncoderSettings("
            f"...)), for Contriever --pooling mean --similarity dot"
        )
    return structure(table, EncoderSettings, place=place)


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(
            f"{name}={value!r} is not one of {', '.join(known)}{did_you_mean(str(value), known)}"
        )
