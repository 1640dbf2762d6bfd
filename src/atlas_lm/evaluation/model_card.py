"""The model card of an exported model: ``README.md`` with the front matter the Hub reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from atlas_lm.evaluation.report import display_name, show_percent

TAGS = ("retrieval-augmented-generation", "atlas", "question-answering")


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What a model card says."""

    name: str
    """The model's name."""
    title: str = ""
    """What was trained, in a few words."""
    reader: Mapping[str, Any] = field(default_factory=dict)
    """Start and settings of the reader: ``path``, ``kind``, ``parameters``."""
    retriever: Mapping[str, Any] = field(default_factory=dict)
    """The same of the retriever; empty where nothing is retrieved."""
    objective: str = ""
    """How the retriever learnt."""
    step: int | None = None
    """Updates behind the weights; None where that is not known."""
    total_steps: int | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    """Where questions and passages came from."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """The last evaluation, fractions."""
    licence: str = ""
    """SPDX name; left out where empty."""
    version: str = ""
    """Of the library."""


def model_card(facts: CardFacts) -> str:
    """Return the card: front matter, use, training, measurements, limits."""
    sections = (
        f"---\n{yaml.safe_dump(_front(facts), sort_keys=False, allow_unicode=True)}---\n",
        f"# {facts.name}\n",
        _what(facts),
        _use(facts),
        _training(facts),
        _measured(facts),
        _limits(facts),
    )
    return "\n".join(section for section in sections if section)


def _front(facts: CardFacts) -> dict[str, Any]:
    bases = [
        str(half["path"])
        for half in (facts.reader, facts.retriever)
        if half and _is_hub_id(str(half.get("path", "")))
    ]
    front: dict[str, Any] = {"library_name": "atlas-lm", "pipeline_tag": "question-answering"}
    if facts.licence:
        front["license"] = facts.licence
    if bases:
        front["base_model"] = bases
    return {**front, "tags": list(TAGS)}


def _is_hub_id(path: str) -> bool:
    owner, slash, name = path.partition("/")
    return (
        bool(slash and owner and name)
        and not path.startswith((".", "~", "package:"))
        and ("/" not in name)
    )


def _what(facts: CardFacts) -> str:
    halves = "A reader and a retriever that were fine-tuned together against an index of passages "
    alone = "A reader, fine-tuned without retrieval "
    what = (halves if facts.retriever else alone) + "with atlas-lm, after Izacard et al., *Atlas: "
    return f"{facts.title + '. ' if facts.title else ''}{what}Few-shot Learning with Retrieval " + (
        "Augmented Language Models* (2022).\n"
    )


def _use(facts: CardFacts) -> str:
    halves = "reader/ and retriever/" if facts.retriever else "reader/"
    index = ', index="INDEX"' if facts.retriever else ""
    build = (
        "atlas-lm index build --passages passages.jsonl --retriever DIR/retriever --out INDEX\n"
        if facts.retriever
        else ""
    )
    return (
        "## Use\n\n"
        f"```sh\n{build}atlas-lm answer --model DIR{' --index INDEX' if build else ''} "
        '"a question"\n```\n\n'
        "```python\nfrom atlas_lm import Atlas\n\n"
        f'atlas = Atlas.from_pretrained("DIR"{index})\natlas.answer("a question").text\n```\n\n'
        f"{halves} are ordinary transformers directories, with their tokenizers; `atlas.json` "
        "holds templates, lengths and the objective.\n"
    )


def _training(facts: CardFacts) -> str:
    steps = "unknown" if facts.step is None else f"{facts.step:,}"
    of = f" of {facts.total_steps:,}" if facts.total_steps else ""
    rows = {
        "updates": f"{steps}{of}",
        "reader": _half(facts.reader),
        "retriever": _half(facts.retriever),
        "objective of the retriever": facts.objective if facts.retriever else "",
        **{f"data: {name}": str(value) for name, value in facts.data.items() if value},
        "atlas-lm": facts.version,
    }
    return "## Training\n\n" + _table(rows, ("", "")) + "\nThe whole recipe is `recipe.toml`.\n"


def _half(half: Mapping[str, Any]) -> str:
    if not half:
        return ""
    parameters = f", {half['parameters']:,} parameters" if half.get("parameters") else ""
    return f"{half.get('kind', '')} from `{half.get('path') or 'unknown'}`{parameters}".strip()


def _measured(facts: CardFacts) -> str:
    if not facts.metrics:
        return ""
    rows = {display_name(name): show_percent(value) for name, value in facts.metrics.items()}
    return (
        "## Measured during training\n\n"
        + _table(rows, ("metric on held-out questions, x100", "last"))
        + "\nSingle values without intervals; `atlas-lm evaluate` measures with them.\n"
    )


def _limits(facts: CardFacts) -> str:
    lines = ["Answers can be wrong, and so can the passages that they rest on: both are shown."]
    if facts.retriever:
        lines.append("An index belongs to this very retriever: one of another encoder is refused.")
    if not facts.licence:
        lines.append(
            "The licence is for you to state: that of the models it began with, and of the data, "
            "bind it (`--license` writes it here)."
        )
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines) + "\n"


def _table(rows: Mapping[str, str], head: Sequence[str]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "| --- | --- |"]
    return "\n".join([*lines, *(f"| {k} | {v} |" for k, v in rows.items() if v)]) + "\n"
