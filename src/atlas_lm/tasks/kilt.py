"""KILT's knowledge-intensive tasks (Petroni et al. 2021): all eleven data sets, one format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from atlas_lm.runtime.errors import InputError, did_you_mean
from atlas_lm.tasks import fields
from atlas_lm.tasks.base import ReaderKind, TemplatedTask, Templates
from atlas_lm.tasks.qa import choose_target
from atlas_lm.types import Example

MENTION = 48
"""Words around a marked mention that are kept, on either side: whole documents are longer than what
is read of a query."""
_MARKS = ("[START_ENT]", "[END_ENT]")


class KiltTask(TemplatedTask):
    """``{id, input, output: [{answer, provenance: [{wikipedia_id, ...}]}]}``.

    Every output with an answer gives an accepted answer, every one with provenance a set of pages
    that is evidence enough. In entity linking both halves are asked with the words around the
    mention, which stays marked for the reader; in slot filling the separator between subject and
    relation is left out.
    """

    templates: ClassVar[Mapping[ReaderKind, Templates]] = {
        "fid": Templates("question: {input} answer: <extra_id_0>", "<extra_id_0> {answer}"),
        "causal": Templates("{input}", "{answer}"),
    }
    measures: ClassVar[tuple[str, ...]] = ("exact_match", "f1", "rouge_l", "recall")
    """The data set's answer metrics; the first is the one of its KILT-score."""
    labels: ClassVar[tuple[str, ...]] = ()
    """The answers there are; empty where they are free."""
    asked_field = "input"
    answer_field = "output"
    query_fields = ("input",)
    target_fields = ("answer",)

    def process(self, row: Mapping[str, Any], *, place: str) -> Example:
        """Return the example a row describes; see `Task.process`."""
        asked = around_mention(fields.text(row, "input", place=place).replace(" [SEP] ", " "))
        answers, provenance = read_outputs(row, place=place)
        for answer in answers if self.labels else ():
            if answer not in self.labels:
                raise InputError(
                    f"{place}: answer {answer!r} is not one of {', '.join(self.labels)}"
                    f"{did_you_mean(answer, self.labels)}; mend it or drop the row"
                )
        target = choose_target(asked, answers, self.config)
        return Example(
            query=self.query_wording.format(input=asked),
            target="" if target is None else self.target_wording.format(answer=target),
            answers=answers,
            choices=tuple(self.target_wording.format(answer=label) for label in self.labels),
            options=self.labels,
            sought=sought(asked),
            unworded=asked,
            measures=self.measures,
            provenance=provenance,
            **fields.common(row, known=("input", "output"), place=place),
        )


class KiltFeverTask(KiltTask):
    """KILT's FEVER: claims that are supported or refuted."""

    measures = ("accuracy",)
    labels = ("SUPPORTS", "REFUTES")


class KiltLinkingTask(KiltTask):
    """AIDA CoNLL-YAGO, WNED-WIKI, WNED-CWEB: the title that a marked mention means."""

    measures = ("accuracy",)


class KiltSlotTask(KiltTask):
    """T-REx, Zero Shot RE: the object of a subject and a relation."""

    measures = ("accuracy", "f1", "recall")


class KiltQATask(KiltTask):
    """Natural Questions, HotpotQA, TriviaQA."""

    measures = ("exact_match", "f1", "recall")


class KiltLongTask(KiltTask):
    """ELI5 and Wizard of Wikipedia: answers of several sentences."""

    measures = ("rouge_l", "f1")


KILT_TASKS: dict[str, type[KiltTask]] = {
    "kilt": KiltTask,
    "kilt_fever": KiltFeverTask,
    "kilt_aidayago2": KiltLinkingTask,
    "kilt_wned": KiltLinkingTask,
    "kilt_cweb": KiltLinkingTask,
    "kilt_trex": KiltSlotTask,
    "kilt_structured_zeroshot": KiltSlotTask,
    "kilt_nq": KiltQATask,
    "kilt_hotpotqa": KiltQATask,
    "kilt_triviaqa": KiltQATask,
    "kilt_eli5": KiltLongTask,
    "kilt_wow": KiltLongTask,
}
"""The eleven data sets under their file names, and ``kilt`` for rows of one's own."""


def read_outputs(
    row: Mapping[str, Any], *, place: str
) -> tuple[tuple[str, ...], tuple[frozenset[str], ...]]:
    """Return the distinct answers of a row and its distinct sets of pages, in order.

    Raises:
        InputError: ``output`` is no list of objects, or an answer or a page id has another type.
    """
    outputs = row.get("output")
    if outputs is None:
        return (), ()
    if not isinstance(outputs, list):
        raise InputError(f"{place}: output is {fields.show(outputs)}; it must be a list of objects")
    answers: list[str] = []
    pages: list[frozenset[str]] = []
    for number, output in enumerate(outputs):
        where = f"{place}: output[{number}]"
        if not isinstance(output, dict):
            raise InputError(f'{where} is {fields.show(output)}; write {{"answer": "..."}}')
        answer = output.get("answer")
        if answer is not None and not isinstance(answer, str):
            raise InputError(f"{where}: answer is {fields.show(answer)}; it must be a string")
        if answer and answer.strip():
            answers.append(answer.strip())
        if evidence := _pages(output.get("provenance"), place=where):
            pages.append(evidence)
    return tuple(dict.fromkeys(answers)), tuple(dict.fromkeys(pages))


def around_mention(asked: str) -> str:
    """Return the marked mention with at most `MENTION` words on either side; else all of it."""
    before, start, rest = asked.partition(_MARKS[0])
    if not start:
        return asked
    mention, end, after = rest.partition(_MARKS[1])
    words = [*before.split()[-MENTION:], start, *mention.split(), end, *after.split()[:MENTION]]
    return " ".join(words)


def sought(asked: str) -> str:
    """Return what the retriever is asked: the mention, then all words without the marks."""
    before, start, rest = asked.partition(_MARKS[0])
    if not start:
        return asked
    mention, _, after = rest.partition(_MARKS[1])
    return f"{mention.strip()}: {' '.join(f'{before} {mention} {after}'.split())}"


def _pages(provenance: Any, *, place: str) -> frozenset[str]:
    if provenance is None:
        return frozenset()
    if not isinstance(provenance, list):
        raise InputError(f"{place}: provenance is {fields.show(provenance)}; it must be a list")
    entries: Sequence[Any] = [entry for entry in provenance if entry]
    for entry in entries:
        if not isinstance(entry, dict):
            raise InputError(f'{place}: provenance {fields.show(entry)}; write {{"wikipedia_id"}}')
    named = [entry for entry in entries if entry.get("wikipedia_id") is not None]
    return frozenset(
        fields.identifier(entry, "wikipedia_id", place=f"{place}: provenance") for entry in named
    )
