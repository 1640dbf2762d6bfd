"""One self-contained HTML page: the style sheet is inside, nothing is loaded from elsewhere."""

from __future__ import annotations

from html import escape
from importlib.resources import files


def html_page(title: str, body: str) -> str:
    """Return a document with this title, the package's style sheet, and a body of HTML."""
    style = files("atlas_lm.evaluation").joinpath("run_card.css").read_text("utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )
