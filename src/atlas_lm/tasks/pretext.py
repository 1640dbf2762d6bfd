"""Pretext tasks: examples made of passages alone (Atlas, section 2.3)."""

from __future__ import annotations

import random
import re
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from atlas_lm.runtime.errors import InputError
from atlas_lm.tasks import fields
from atlas_lm.tasks.base import ReaderKind, TaskConfig, TemplatedTask, Templates
from atlas_lm.tasks.spans import hidden_spans, units
from atlas_lm.types import Example, Overlap, Passage

_SENTINEL = re.compile(r"<extra_id_\d+>")


@dataclass(frozen=True)
class Cut:
    """A passage in two: what is shown and what is to be written."""

    shown: str
    """For the reader, sentinels included."""
    hidden: str
    """What the reader is to write, sentinels included."""
    sought: str
    """What the retriever is asked: nothing of the hidden text."""
    answer: str
    """The hidden text without sentinels."""
    guarded: str
    """The text around which the overlap guard stands."""


class PretextTask(TemplatedTask):
    """``{id, text[, title, section]}``, a passage: part of it is shown, the rest to be written.

    The passage itself is never retrieved.
    """

    asked_field = "text"
    query_fields = ("text", "title", "section")
    target_fields = ("target",)
    templates: ClassVar[Mapping[ReaderKind, Templates]] = {
        "fid": Templates("{text}", "{target}"),
        "causal": Templates("{text}", "{target}"),
    }

    @abstractmethod
    def cut(self, passage: Passage, draw: random.Random) -> Cut | None:
        """Return a passage cut in two; None where it is too short."""

    def process(self, row: Mapping[str, Any], *, place: str) -> Example:
        """Return the example a passage makes; see `Task.process`.

        Raises:
            InputError: the row is no passage, or too short to be cut.
        """
        shared = fields.common(row, known=("text", "title", "section"), place=place)
        text = fields.text(row, "text", place=place)
        title, section = (fields.optional_text(row, n, place=place) for n in ("title", "section"))
        passage = Passage(shared["id"], text, title or "", section or "")
        example = self.of_passage(passage)
        if example is None:
            raise InputError(f"{place}: {self.too_short}; drop the row")
        if self.draws > 1:
            shared["metadata"] |= {"passage": passage}
        excluded = example.excluded_passage_ids | shared["excluded_passage_ids"]
        return replace(example, **{**shared, "excluded_passage_ids": excluded})

    too_short: ClassVar[str] = "the text has fewer than 2 words"

    def of_passage(self, passage: Passage, draw: int = 0) -> Example | None:
        """Return example ``draw`` of a passage, always the same; None where it is too short."""
        settings = self.config.pretext
        seed = f"{self.config.seed} {type(self).__name__} {draw} {passage.id}"
        passage = replace(passage, text=_SENTINEL.sub("", passage.text))
        found = self.cut(passage, random.Random(seed))
        if found is None:
            return None
        named = {"title": passage.title, "section": passage.section}
        guard = Overlap(found.guarded, settings.overlap) if settings.overlap else None
        return Example(
            id=passage.id if settings.draws == 1 else f"{passage.id}#{draw}",
            query=self.query_wording.format(text=found.shown, **named),
            target=self.target_wording.format(target=found.hidden),
            answers=(found.answer,),
            excluded_passage_ids=frozenset({passage.id}),
            sought=found.sought,
            overlap=guard,
            measures=("exact_match", "f1", "rouge_l"),
        )

    @property
    def draws(self) -> int:
        """Cuts of each passage that are trained on."""
        return self.config.pretext.draws

    def variant(self, example: Example, draw: int) -> Example:
        """Return the example of the same passage, cut anew."""
        other = self.of_passage(example.metadata["passage"], draw)
        assert other is not None
        return replace(
            example,
            id=f"{example.id}#{draw}",
            query=other.query,
            target=other.target,
            answers=other.answers,
            sought=other.sought,
            overlap=other.overlap,
        )

    def ask(self, text: str, *, id: str = "1") -> Example:
        """Return an example that shows ``text`` as it is, nothing of it hidden."""
        fields.text({"text": text}, "text", place="question")
        return Example(id, self.query_wording.format(text=text, title="", section=""), "")


class LMTask(PretextTask):
    """Prefix language modelling: the beginning of a passage is shown, its rest to be written."""

    templates: ClassVar[Mapping[ReaderKind, Templates]] = {
        "fid": Templates("{text} <extra_id_0>", "<extra_id_0> {target}"),
        "causal": Templates("{text}", "{target}"),
    }

    def cut(self, passage: Passage, draw: random.Random) -> Cut | None:
        """Split a text after a share of its words drawn between ``min_prefix`` and ``max_prefix``.

        At least one word stands on each side.
        """
        words = units(passage.text)
        if len(words) < 2:
            return None
        settings = self.config.pretext
        share = draw.uniform(settings.min_prefix, settings.max_prefix)
        shown = min(max(round(share * len(words)), 1), len(words) - 1)
        begin, end = words[0][0], words[-1][1]
        prefix = passage.text[begin : words[shown - 1][1]]
        rest = passage.text[words[shown][0] : end]
        return Cut(prefix, rest, prefix, rest, rest)


class MLMTask(PretextTask):
    """Masked language modelling: T5's span corruption over words; see `spans.hidden_spans`."""

    def cut(self, passage: Passage, draw: random.Random) -> Cut | None:
        """Put a sentinel for every hidden span; the target names each with what it hides.

        A last sentinel ends the target (Raffel et al. 2020, figure 2).
        """
        text = self._marks.sub("", passage.text)
        words = units(text)
        if len(words) < 2:
            return None
        settings = self.config.pretext
        spans = hidden_spans(
            len(words),
            density=settings.density,
            mean_span=settings.mean_span,
            most=settings.sentinels - 1,
            draw=draw,
        )
        shown, free, hidden, place = "", [], [], 0
        for number, (first, last) in enumerate(spans):
            start, end = words[first][0], words[last - 1][1]
            shown += text[place:start] + self._sentinel(number)
            free.append(text[place:start])
            hidden.append(text[start:end])
            place = end
        shown, free = shown + text[place:], [*free, text[place:]]
        target = " ".join(f"{self._sentinel(n)} {span}" for n, span in enumerate(hidden))
        return Cut(
            shown.strip(),
            f"{target} {self._sentinel(len(spans))}",
            " ".join(" ".join(free).split()),
            " ".join(hidden),
            text,
        )

    @classmethod
    def worded(cls, config: TaskConfig, reader: ReaderKind) -> TaskConfig:
        """Write out how sentinels look to ``reader``."""
        config = super().worded(config, reader)
        if config.pretext.sentinel is not None:
            return config
        sentinel = "<extra_id_{n}>" if reader == "fid" else "[{n}]"
        return replace(config, pretext=replace(config.pretext, sentinel=sentinel))

    def answer(self, text: str) -> str:
        """Return what was written between the sentinels; see `Task.answer`."""
        return " ".join(self._marks.sub(" ", super().answer(text)).split())

    @property
    def _marks(self) -> re.Pattern[str]:
        before, _, after = (self.config.pretext.sentinel or "<extra_id_{n}>").partition("{n}")
        return re.compile(rf"{re.escape(before)}\d+{re.escape(after)}")

    def _sentinel(self, number: int) -> str:
        return (self.config.pretext.sentinel or "<extra_id_{n}>").replace("{n}", str(number))


class SectionTask(PretextTask):
    """Title and section to text (Atlas, section 2.3): the whole passage is to be written."""

    templates: ClassVar[Mapping[ReaderKind, Templates]] = {
        "fid": Templates("{text} <extra_id_0>", "<extra_id_0> {target}"),
        "causal": Templates("{text}", "{target}"),
    }
    too_short: ClassVar[str] = "a passage without a title or a text"

    def cut(self, passage: Passage, draw: random.Random) -> Cut | None:
        """Show ``title, section``; passages without a title make no example."""
        text = passage.text.strip()
        if not passage.title.strip() or not text:
            return None
        heading = ", ".join(part for part in (passage.title, passage.section) if part.strip())
        return Cut(heading, text, heading, text, text)
