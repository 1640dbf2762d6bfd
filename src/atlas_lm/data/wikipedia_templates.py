"""What a template of Wikipedia contributes to the text: most nothing, a few their words.

Templates are written out by MediaWiki, which a dump does not contain. Those that stand for words in
running text, quantities, dates and lists are named here; the others are left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

Values = Sequence[str]
"""The numbered parameters of a template, as text, in order."""

_FIRST = frozenset(
    {"nowrap", "nobr", "small", "smaller", "big", "abbr", "em", "strong", "mono", "vanchor"}
    | {"linktext", "ill", "interlanguage link", "flag", "flagcountry", "flagu", "nts", "formatnum"}
    | {"as written", "not a typo", "sic", "nihongo", "quote", "blockquote", "cquote", "quotation"}
    | {"text", "proper name", "ship", "noitalic", "unicode", "script", "tooltip", "val", "marriage"}
)
"""Templates whose first parameter is their text."""
_SIGNS: Mapping[str, str] = {
    "snd": " – ",
    "spnd": " – ",
    "spaced ndash": " – ",
    "dash": " – ",
    "ndash": "–",
    "endash": "–",
    "mdash": "—",
    "emdash": "—",
    "nbsp": " ",
    "!": "|",
    "=": "=",
    "'": "'",
    "'s": "'s",
    "·": " · ",
    "•": " · ",
    "ellipsis": "…",
}
_LISTS = frozenset(
    {
        "plainlist",
        "flatlist",
        "hlist",
        "ubl",
        "ublist",
        "unbulleted list",
        "bulleted list",
        "cslist",
    }
    | {
        "collapsible list",
        "plain list",
        "flat list",
        "ubli",
        "ordered list",
        "pagelist",
        "flowlist",
    }
)
_DATES = frozenset(
    f"{event} date{age}"
    for event in ("birth", "death", "start", "end", "film", "release")
    for age in ("", " and age", " and years ago", "-mdy")
) | {"dts", "birth-date", "death-date", "date", "birth date and age2"}
_RANGES = frozenset({"-", "–", "to", "and", "or", "by", "x", "+", "±", "to(-)"})
_SKIPPED_DISAMBIGUATION = frozenset({"disambiguation needed", "disambiguation link"})
_DISAMBIGUATION = frozenset(
    {"dab", "disambig", "disambiguation", "hndis", "geodis", "numberdis", "mathdab", "letter dab"}
    | {"airport disambiguation", "begriffsklärung", "homonymie", "desambiguación", "disambigua"}
    | {"desambiguação", "doorverwijspagina", "ujednoznacznienie", "неоднозначность", "曖昧さ回避"}
    | {"grensida", "gren", "消歧义"}
)
_BOX = re.compile(r"(?:^|\s)(?:infobox|taxobox|speciesbox|chembox|drugbox|geobox|infoboks)\b")


def normal_name(name: str) -> str:
    """Return a template's name as names are compared: lower case, single spaces."""
    return " ".join(name.replace("_", " ").split()).lower().removeprefix("template:").strip()


def is_infobox(name: str) -> bool:
    """Return whether a template of this (normal) name is an infobox."""
    return _BOX.search(name) is not None and not name.endswith("/doc")


def is_disambiguation(name: str) -> bool:
    """Return whether a template of this (normal) name marks a disambiguation page."""
    if name in _SKIPPED_DISAMBIGUATION:
        return False
    return name in _DISAMBIGUATION or name.endswith(" disambiguation")


def template_text(name: str, values: Values) -> str:
    """Return the words of a template by its (normal) name and its numbered parameters."""
    if name in _SIGNS:
        return _SIGNS[name]
    if name in _LISTS:
        return "".join(
            f"\n- {value.strip()}\n" if value.strip()[:1] != "-" else value for value in values
        )
    if name in _DATES:
        return _date(values)
    if name.startswith("lang-"):
        return values[0] if values else ""
    if not values:
        return ""
    write = _WRITERS.get(name)
    return write(values) if write else values[0] if name in _FIRST else ""


def _date(values: Values) -> str:
    """Return ``1815-12-10``, or the words where they are no numbers."""
    numbers = [value.strip() for value in values if value.strip()]
    if numbers and not numbers[0].isdigit():
        return numbers[0]
    leading = [number for number in numbers[:3] if number.isdigit()]
    return "-".join(number.zfill(2) for number in leading)


def _quantity(values: Values) -> str:
    """Return ``5 km`` of ``5|km|mi``, ``5–10 km`` of ``5|-|10|km``, ``5 ft 7 in`` of those four."""
    parts = [value.strip() for value in values]
    if len(parts) > 3 and parts[1] in _RANGES:
        sign = "–" if parts[1] in {"-", "–", "to(-)"} else f" {parts[1]} "
        return f"{parts[0]}{sign}{parts[2]} {parts[3]}"
    end = 2
    while end + 1 < len(parts) and parts[end][:1].isdigit() and parts[end + 1][:1].isalpha():
        end += 2
    return " ".join(parts[:end])


def _fraction(values: Values) -> str:
    parts = [value.strip() for value in values]
    if len(parts) == 3:
        return f"{parts[0]} {parts[1]}/{parts[2]}"
    return "/".join(parts) if len(parts) == 2 else f"1/{parts[0]}"


_WRITERS: Mapping[str, Callable[[Values], str]] = {
    "lang": lambda values: values[1] if len(values) > 1 else "",
    "langx": lambda values: values[1] if len(values) > 1 else "",
    "transl": lambda values: values[-1],
    "transliteration": lambda values: values[-1],
    "convert": _quantity,
    "cvt": _quantity,
    "circa": lambda values: f"c. {values[0]}",
    "c.": lambda values: f"c. {values[0]}",
    "floruit": lambda values: f"fl. {values[0]}",
    "as of": lambda values: f"As of {_date(values)}",
    "frac": _fraction,
    "sfrac": _fraction,
    "us$": lambda values: f"US${values[0]}",
    "gbp": lambda values: f"£{values[0]}",
    "£": lambda values: f"£{values[0]}",
    "euro": lambda values: f"€{values[0]}",
    "€": lambda values: f"€{values[0]}",
    "inr": lambda values: f"₹{values[0]}",
    "url": lambda values: values[-1],
    "sortname": lambda values: " ".join(values[:2]),
}
