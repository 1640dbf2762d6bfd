"""Texts made comparable."""

from __future__ import annotations

import re
import string

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """Return ``text`` after SQuAD's normalisation (Rajpurkar et al. 2016).

    Lower case, without ASCII punctuation, without a, an, the, and with single spaces, which may
    leave nothing.
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())
