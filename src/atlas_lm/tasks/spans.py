"""Words of a text, and which of them to hide."""

from __future__ import annotations

import random
import re

Span = tuple[int, int]
"""Start and end."""

_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_UNIT = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")


def units(text: str) -> list[Span]:
    """Return where the words of a text stand; a character each in scripts without spaces."""
    return [found.span() for found in _UNIT.finditer(text)]


def hidden_spans(
    length: int, *, density: float, mean_span: float, most: int, draw: random.Random
) -> list[Span]:
    """Return runs of words to hide, in order, with a shown word or more between two of them.

    T5's span corruption (Raffel et al. 2020, section 3.1.4): ``density * length`` words in spans of
    ``mean_span`` on average. Rounded, at least one word is hidden and one is shown. There are never
    more spans than ``most``, nor than the shown words can keep apart: then spans are longer. Every
    placement with the drawn span lengths is equally likely, so a text may begin or end hidden.

    Args:
        length: words in the text, at least 2.
        density: share of the words to hide.
        mean_span: words in a span.
        most: most spans.
        draw: source of randomness.
    """
    n_hidden = min(max(round(length * density), 1), length - 1)
    n_shown = length - n_hidden
    n_spans = max(1, min(round(n_hidden / mean_span), most, n_hidden, n_shown + 1))
    hidden = _parts(n_hidden, n_spans, draw)
    gaps = _parts(n_shown + 2, n_spans + 1, draw)
    gaps[0] -= 1
    gaps[-1] -= 1
    spans, place = [], 0
    for gap, size in zip(gaps, hidden, strict=False):
        spans.append((place + gap, place + gap + size))
        place += gap + size
    return spans


def _parts(total: int, parts: int, draw: random.Random) -> list[int]:
    """Return ``parts`` numbers of 1 or more that add up to ``total``, uniformly drawn."""
    cuts = sorted(draw.sample(range(1, total), parts - 1))
    return [end - start for start, end in zip([0, *cuts], [*cuts, total], strict=True)]
