"""How a decoder-only reader words, bounds and reads its inputs; saved as ``reader.json``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from atlas_lm.passages.format import FIELDS
from atlas_lm.reader.settings import SETTINGS_FILE
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.files import read_table, write_json
from atlas_lm.runtime.structure import structure, unstructure
from atlas_lm.runtime.templates import template_pieces


@dataclass(frozen=True, kw_only=True)
class CausalSettings:
    """What a decoder-only reader needs to know beside its weights and its tokenizer.

    A prompt is the prefix (instruction, then demonstrations), the passages and the question; the
    target follows it. All parts are tokenized apart and joined as token ids.
    """

    kind: Literal["causal"] = "causal"
    """Which reader opens this directory."""
    reading: Literal["one_prompt", "fused"] = "one_prompt"
    """All passages in one prompt, or each passage encoded alone behind the shared prefix and the
    question attending to all of them (Fusion-in-Decoder for a decoder-only model)."""
    instruction: str = "Answer the question in a few words.\n\n"
    """Opens every prompt."""
    passage_format: str = "{title}: {text}"
    """One passage; fields {title} (with its section), {text} and {section}."""
    passage_end: str = "\n\n"
    """Follows every passage, also one that lost its end to ``passage_maxlength``."""
    query_format: str = "Question: {query}\nAnswer:"
    """The question; field {query}."""
    target_format: str = " {target}"
    """What is written after the question; field {target}."""
    stop: str = "\n"
    """Ends every target and every generated answer; empty: the end-of-sequence token alone."""
    demonstrations: tuple[tuple[str, str], ...] = ()
    """Pairs of query and target shown in the prefix, without passages."""
    demonstration_end: str = "\n"
    """Follows every demonstration."""
    passage_maxlength: int = 128
    """Longest passage in tokens, its end included; longer ones lose the end of their text."""
    query_maxlength: int = 128
    """Longest query in tokens; longer ones lose their beginning, the wording around them stays."""
    target_maxlength: int = 32
    """Longest target in tokens, its stop included; longer ones lose their end."""
    trainable_layers: int | None = None
    """Train the topmost blocks alone: embeddings, lower blocks and output head stay as they are,
    and what lies below costs no backward pass. Left out: everything is trained."""
    tokens_per_forward: int | None = None
    """Tokens read at once, where more queries are at hand than so many hold: in signals and scores,
    and on a CPU in the loss beside them. Left out: 4096, and 1024 on a CPU, which reads no faster
    for reading more at once, but reads the pads between long and short."""

    def __post_init__(self) -> None:
        for name in ("passage_maxlength", "query_maxlength"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} must be at least 1")
        if self.tokens_per_forward is not None and self.tokens_per_forward < 1:
            raise InputError(f"tokens_per_forward={self.tokens_per_forward} must be at least 1")
        if self.target_maxlength < 2:
            raise InputError(f"target_maxlength={self.target_maxlength} must be at least 2")
        if self.reading not in ("one_prompt", "fused"):
            raise InputError(f"reading={self.reading!r} must be one_prompt or fused")
        if self.trainable_layers is not None and self.trainable_layers < 1:
            raise InputError(f"trainable_layers={self.trainable_layers} must be at least 1")
        template_pieces(self.passage_format, FIELDS, option="passage_format", needs=("text",))
        for name, field in (("query_format", "query"), ("target_format", "target")):
            if getattr(self, name).count(f"{{{field}}}") != 1:
                raise InputError(f"{name}={getattr(self, name)!r} must hold {{{field}}} once")

    def save(self, path: str | Path) -> None:
        """Write the settings to ``reader.json`` in the directory ``path``."""
        write_json(Path(path) / SETTINGS_FILE, unstructure(self))

    @classmethod
    def load(cls, path: str | Path) -> CausalSettings:
        """Read ``reader.json`` from the directory ``path``.

        Raises:
            InputError: the file is missing or no JSON object, a field unknown or of a wrong type.
        """
        file = Path(path) / SETTINGS_FILE
        return structure(read_table(file, what="a reader's settings"), cls, place=str(file))
