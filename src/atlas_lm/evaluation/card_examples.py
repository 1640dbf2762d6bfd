"""Questions with their passages before and after, for the run card."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from html import escape

from atlas_lm.evaluation.metrics import answer_spans
from atlas_lm.evaluation.plot import short_number
from atlas_lm.evaluation.records import AnswerRecord, RankedPassage
from atlas_lm.tasks import QATask

Pair = tuple[AnswerRecord, AnswerRecord]

_SHOWN_PASSAGES = 3
_SNIPPET = 260
_CHANGES = {1: ("improved", "good"), -1: ("worse", "bad"), 0: ("as before", "none")}


def choose_examples(
    before: Sequence[AnswerRecord],
    after: Sequence[AnswerRecord],
    *,
    count: int = 10,
    seed: int = 0,
) -> list[Pair]:
    """Return ``count`` examples to show: as many improved as worse as unchanged ones, where found.

    Within each kind they are drawn by seed, so that nobody picks the pretty ones; the improved come
    first.
    """
    kinds: dict[int, list[Pair]] = {1: [], -1: [], 0: []}
    for pair in zip(before, after, strict=True):
        kinds[change(pair)].append(pair)
    for pairs in kinds.values():
        pairs.sort(
            key=lambda pair: hashlib.sha256(f"{seed} {pair[0].example.id}".encode()).digest()
        )
    taken = dict.fromkeys(kinds, 0)
    while sum(taken.values()) < min(count, len(before)):
        for kind in kinds:
            if taken[kind] < len(kinds[kind]) and sum(taken.values()) < count:
                taken[kind] += 1
    return [pair for kind in kinds for pair in kinds[kind][: taken[kind]]]


def change(pair: Pair) -> int:
    """Return 1 where the example improved, -1 where it got worse, 0 where it did neither.

    The answer decides; where it is worth the same, the passages do.
    """
    before, after = (record.metrics for record in pair)
    for name in ("exact_match", "f1", "mrr", "gold_mrr"):
        difference = after.get(name, 0.0) - before.get(name, 0.0)
        if difference:
            return 1 if difference > 0 else -1
    return 0


def examples_section(pairs: Sequence[Pair]) -> str:
    """Return the section as HTML; empty without examples."""
    if not pairs:
        return ""
    counts = {kind: sum(change(pair) == kind for pair in pairs) for kind in _CHANGES}
    listed = ", ".join(f"{counts[kind]} {_CHANGES[kind][0]}" for kind in _CHANGES if counts[kind])
    return (
        f"<h2>{len(pairs)} questions, before and after</h2>"
        f'<p class="caption">Of those shown: {listed}. Accepted answers are highlighted where a '
        "passage holds one; its rank is then green. Passages are cut around the answer.</p>"
        + "".join(map(_example, pairs))
    )


def _example(pair: Pair) -> str:
    before, after = pair
    name, kind = _CHANGES[change(pair)]
    answers = " · ".join(before.example.answers[:6])
    ranks = {item.passage.id: rank for rank, item in enumerate(before.passages, 1)}
    return (
        f'<div class="card example"><header><b>{escape(_question(before))}</b>'
        f'<span class="badge {kind}">{name}</span></header>'
        f'<div class="soft">accepted: {escape(answers) or "none given"}</div>'
        f'<div class="sides">{_side("before", before, None)}{_side("after", after, ranks)}</div>'
        "</div>"
    )


def _question(record: AnswerRecord) -> str:
    """Return the query, without the wording of a question for a T5 reader."""
    begin, end = QATask.templates["fid"].query.split("{question}")
    return record.example.query.removeprefix(begin).removesuffix(end)


def _side(title: str, record: AnswerRecord, ranks_before: Mapping[str, int] | None) -> str:
    passages = [
        _passage(record, rank, item, ranks_before) for rank, item in enumerate(record.passages, 1)
    ]
    shown = f"<ol>{''.join(passages[:_SHOWN_PASSAGES])}</ol>"
    if hidden := passages[_SHOWN_PASSAGES:]:
        shown += (
            f"<details><summary>{len(hidden)} more</summary><ol>{''.join(hidden)}</ol></details>"
        )
    return f'<div class="side">{_said(title, record)}{shown}</div>'


def _said(title: str, record: AnswerRecord) -> str:
    if record.generated is None:
        return f'<p class="said"><span class="soft">{title}</span></p>'
    is_right = record.metrics.get("exact_match", 0.0) == 1.0
    answer = record.generated.text.strip()
    shown = f"<b>{escape(answer)}</b>" if answer else '<i class="soft">nothing</i>'
    badge = (
        f'<span class="badge {"good" if is_right else "bad"}">{"right" if is_right else "wrong"}'
    )
    return f'<p class="said"><span class="soft">{title}:</span> {shown} {badge}</span></p>'


def _passage(
    record: AnswerRecord, rank: int, item: RankedPassage, ranks_before: Mapping[str, int] | None
) -> str:
    answers = record.example.answers
    heading = highlight(item.passage.heading or item.passage.id, answers)
    moved = "" if ranks_before is None else _moved(rank, ranks_before.get(item.passage.id))
    gold = ", gold" if item.is_gold else ""
    return (
        f"<li{' class=hit' if item.has_answer else ''}><span>{rank}</span><div><b>{heading}</b> "
        f'<span class="where">{short_number(item.score)}{gold}{moved}</span><br>'
        f"{highlight(snippet(item.passage.text, answers), answers)}</div></li>"
    )


def _moved(rank: int, rank_before: int | None) -> str:
    if rank_before is None:
        return ", new"
    return "" if rank_before == rank else f", was {rank_before}"


def snippet(text: str, answers: Sequence[str], *, length: int = _SNIPPET) -> str:
    """Return about ``length`` characters of ``text``, around its first answer where it has one."""
    text = " ".join(text.split())
    if len(text) <= length:
        return text
    spans = answer_spans(text, answers)
    start = 0 if not spans or spans[0][1] < length else max(0, spans[0][0] - length // 2)
    start = start and text.rfind(" ", 0, start) + 1
    end = text.rfind(" ", start + length // 2, start + length)
    end = len(text) if start + length >= len(text) else max(end, start + length // 2)
    return ("… " if start else "") + text[start:end] + (" …" if end < len(text) else "")


def highlight(text: str, answers: Sequence[str]) -> str:
    """Return ``text`` as HTML with every answer in ``<mark>``."""
    parts, position = [], 0
    for start, end in answer_spans(text, answers):
        parts += [escape(text[position:start]), f"<mark>{escape(text[start:end])}</mark>"]
        position = end
    return "".join((*parts, escape(text[position:])))
