"""What Milvus stores of a passage, and conditions on it as Milvus writes them."""

from __future__ import annotations

import ast
import json
from typing import Any

from jaxtyping import Bool
from torch import Tensor

from atlas_lm.runtime.errors import InputError
from atlas_lm.types import Passage

RESERVED = ("row", "vector")
"""Names of our own fields; a passage's metadata of these names is left out."""


def described(passage: Passage) -> dict[str, Any]:
    """Return what the database stores of a passage: its id, title, section and metadata, no text.

    A deleted passage's fields are gone with its row, and filters on the server see the rest.
    """
    own = {"id": passage.id, "title": passage.title, "section": passage.section}
    return {name: value for name, value in passage.metadata.items() if name not in RESERVED} | own


def server_filter(where: str) -> str:
    """Return a simple condition on metadata as Milvus writes it.

    Fields are compared by ``== < <= > >=``, ``in [...]`` and ``startswith(field, "x")``, joined by
    ``and`` and ``or``. What a passage without the field satisfies (``!=``, ``not``) differs there.

    Raises:
        InputError: there is more in it; filter by rows instead.
    """
    try:
        return _translated(ast.parse(where.strip(), mode="eval").body)
    except (SyntaxError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"where {where!r}: Milvus is given ==, <, <=, >, >=, in, startswith, and, or alone; "
            "filter by rows (allowed_rows) for anything else"
        ) from error


_COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Eq: "==",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.In: "in",
}


def _translated(node: ast.expr) -> str:
    if isinstance(node, ast.BoolOp):
        word = " and " if isinstance(node.op, ast.And) else " or "
        return "(" + word.join(map(_translated, node.values)) + ")"
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "startswith":
        field, prefix = node.args
        text = ast.literal_eval(prefix)
        if "%" in text or "_" in text:
            raise ValueError(text)
        return f"{_field(field)} like {json.dumps(text + '%')}"
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        value = json.dumps(ast.literal_eval(node.comparators[0]), ensure_ascii=False)
        return f"{_field(node.left)} {_COMPARISONS[type(node.ops[0])]} {value}"
    raise TypeError(type(node).__name__)


def _field(node: ast.expr) -> str:
    if isinstance(node, ast.Name) and node.id not in RESERVED:
        return node.id
    raise TypeError(ast.dump(node))


def mask_filter(allowed: Bool[Tensor, " n"] | None, most: int) -> tuple[str, bool]:
    """Return the mask as a filter, and whether ``most`` rows named are enough for one."""
    if allowed is None or bool(allowed.all()):
        return "", True
    kept = int(allowed.sum())
    for count, mask, word in (
        (len(allowed) - kept, ~allowed, "not in"),
        (kept, allowed, "in"),
    ):
        if count <= most:
            return f"row {word} {mask.nonzero()[:, 0].tolist()}", True
    return "", False


def both(one: str, other: str) -> str:
    """Return the filter that both conditions make; "" is none."""
    return " and ".join(filter(None, (one, other)))
