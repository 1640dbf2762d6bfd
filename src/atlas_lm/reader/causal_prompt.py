"""Questions, passages and targets to token ids. Parts are joined as ids, never as strings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from atlas_lm.passages.format import format_passage
from atlas_lm.reader.causal_settings import CausalSettings
from atlas_lm.reader.constrained import warn_of_cut_target
from atlas_lm.reader.legible import warn_of_cut_passages, without_end
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.logs import warn_once
from atlas_lm.types import Passage, Tokens


@dataclass(frozen=True)
class CausalInputs:
    """A batch of queries and passages as a decoder-only reader's tokens."""

    query: Tokens
    """The worded queries, ``bsz length``."""
    passages: Tokens
    """The passages, ``bsz n_context length``."""

    @property
    def n_context(self) -> int:
        """Passages per query; 0 in closed book."""
        return self.passages.ids.shape[1]

    def __len__(self) -> int:
        return len(self.query.ids)

    def first(self, n_context: int) -> CausalInputs:
        """Keep the best ``n_context`` passages of every query."""
        kept = Tokens(self.passages.ids[:, :n_context], self.passages.mask[:, :n_context])
        return replace(self, passages=kept)

    def continued(self, token_ids: Sequence[Sequence[int]]) -> CausalInputs:
        """Return the same inputs with tokens appended to every query."""
        queries = [
            [*ids[mask].tolist(), *more]
            for ids, mask, more in zip(self.query.ids, self.query.mask, token_ids, strict=True)
        ]
        return replace(self, query=Tokens.padded(queries))

    def to(self, device: torch.device | str) -> CausalInputs:
        """Return the same inputs on ``device``."""
        return replace(self, query=self.query.to(device), passages=self.passages.to(device))


class Wording:
    """A tokenizer and settings: what exactly the model is shown."""

    def __init__(self, tokenizer: Any, settings: CausalSettings) -> None:
        self._tokenizer = tokenizer
        self._settings = settings
        self._before, self._after = settings.query_format.split("{query}")

    @cached_property
    def prefix(self) -> list[int]:
        """Token ids that open every prompt: the tokenizer's own, instruction, demonstrations."""
        ids = [self._tokenizer.bos_token_id] if self._opens_with_bos else []
        ids += self._encode(self._settings.instruction)
        for query, target in self._settings.demonstrations:
            ids += self.query(query) + self.target(target)
            ids += self._encode(self._settings.demonstration_end)
        return ids

    @cached_property
    def end(self) -> list[int]:
        """Token ids that end a target."""
        stop = self._encode(self._settings.stop)
        return stop or [self._tokenizer.eos_token_id]

    @cached_property
    def _passage_end(self) -> list[int]:
        return self._encode(self._settings.passage_end)

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """Token ids that end a generated answer: end of sequence, and any that holds the stop."""
        ends = {self._tokenizer.eos_token_id} - {None}
        if stop := self._settings.stop:
            everything = self._tokenizer.batch_decode([[i] for i in range(len(self._tokenizer))])
            ends |= {i for i, piece in enumerate(everything) if stop in piece}
        return frozenset(ends)

    def is_ended(self, token_ids: Sequence[int]) -> bool:
        """Return whether an answer has written its end; a stop may be spread over its tokens."""
        if token_ids and token_ids[-1] in self.end_ids:
            return True
        size = len(self._settings.stop.encode())
        # A text's first token may lose its leading space, so one more than the stop's is looked at.
        return size > 1 and self._settings.stop in self._tokenizer.decode(token_ids[-size - 1 :])

    def query(self, query: str) -> list[int]:
        """Return the worded query's token ids.

        Raises:
            InputError: nothing is left to read, or the query holds a T5 sentinel.
        """
        self._refuse_sentinel(query)
        ids = self._cut(self._encode(self._before + query)) + self._encode(self._after)
        if not ids:
            raise InputError("a query is empty; give it text, or a query_format that has some")
        return ids

    def _cut(self, ids: list[int]) -> list[int]:
        """Return a query that is too long without its beginning: what is asked stands at its end.

        The wording before the query stays, as far as there is room.
        """
        most = self._settings.query_maxlength
        if len(ids) <= most:
            return ids
        warn_once(
            f"a query has {len(ids)} tokens and is read without its beginning; "
            f"reader.settings.query_maxlength={most} is the most that is read"
        )
        before = len(self._encode(self._before.rstrip()))
        return ids[:before] + ids[before - most :] if before < most else ids[:most]

    def target(self, target: str) -> list[int]:
        """Return the worded target's token ids with its end; one that is too long is cut."""
        self._refuse_sentinel(target)
        ids = self._encode(self.worded(target))
        if len(ids) > self._target_room:
            warn_of_cut_target(self._settings.target_maxlength)
        return ids[: self._target_room] + self.end

    def is_cut(self, target: str) -> bool:
        """Return whether a target is too long to be kept whole."""
        return len(self._encode(self.worded(target))) > self._target_room

    @property
    def _target_room(self) -> int:
        return self._settings.target_maxlength - len(self.end)

    def worded(self, target: str) -> str:
        """Return what is written of a target, without its end."""
        return self._settings.target_format.replace("{target}", target)

    def begun(self, text: str) -> str:
        """Return a decoder prompt as the beginning of what is written of a target."""
        return self._settings.target_format.partition("{target}")[0] + text

    def continued(self, text: str) -> list[int]:
        """Return the token ids of a decoder prompt: how a target begins."""
        self._refuse_sentinel(text)
        return self._encode(self.begun(text))

    def passage(self, passage: Passage) -> tuple[list[int], bool]:
        """Return a passage's token ids with its end, and whether it lost some of its text."""
        ids, room = self._worded_passage(passage)
        return ids[:room] + self._passage_end, len(ids) > room

    def legible(self, passage: Passage) -> Passage:
        """Return a passage without the end of its text that is not read."""
        ids, room = self._worded_passage(passage)
        return without_end(self._tokenizer, passage, len(ids) - room)

    def _worded_passage(self, passage: Passage) -> tuple[list[int], int]:
        """Return a passage's token ids without its end, and how many of them are read."""
        ids = self._encode(format_passage(self._settings.passage_format, passage))
        return ids, max(self._settings.passage_maxlength - len(self._passage_end), 0)

    def inputs(self, query: Sequence[str], passages: Sequence[Sequence[Passage]]) -> CausalInputs:
        """Return a batch as tokens, padded to the longest query and the longest passage.

        Raises:
            InputError: the queries have different numbers of passages.
        """
        counts = {len(given) for given in passages} or {0}
        if len(counts) > 1 or len(passages) != len(query):
            raise InputError(
                f"{len(query)} queries come with {[len(given) for given in passages]} passages; "
                "give every query of a batch the same number"
            )
        encoded = [self.passage(passage) for given in passages for passage in given]
        cut = sum(was_cut for _, was_cut in encoded)
        most = self._settings.passage_maxlength
        warn_of_cut_passages(cut, len(encoded), f"reader.settings.passage_maxlength={most}")
        flat = Tokens.padded([ids for ids, _ in encoded])
        shape = (len(query), counts.pop(), flat.ids.shape[1])
        return CausalInputs(
            query=Tokens.padded([self.query(text) for text in query]),
            passages=Tokens(flat.ids.view(shape), flat.mask.view(shape)),
        )

    def targets(self, target: Sequence[str]) -> Tokens:
        """Return worded targets as tokens, ``bsz length``."""
        return Tokens.padded([self.target(text) for text in target])

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return a generated answer's text up to its end, without the spaces around it."""
        kept = [token for token in token_ids if token != self._tokenizer.eos_token_id]
        text: str = self._tokenizer.decode(kept, skip_special_tokens=True)
        return (text.partition(self._settings.stop)[0] if self._settings.stop else text).strip()

    @property
    def _opens_with_bos(self) -> bool:
        opening: list[int] = self._tokenizer("a").input_ids[:1]
        return opening == [self._tokenizer.bos_token_id]

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def _refuse_sentinel(self, text: str) -> None:
        if "<extra_id_" in text and "<extra_id_0>" not in self._tokenizer.get_vocab():
            raise InputError(
                f"{text!r} holds a T5 sentinel, which a decoder-only reader would read as text; "
                "word queries as '{question}' and targets as '{answer}' in the task's settings"
            )
