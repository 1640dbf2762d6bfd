"""Conditions on passages: ``source == "hr" and year >= 2020``, in a small part of Python's syntax.

Names are fields of a passage (``id``, ``title``, ``section``, ``text``, or any metadata, dotted
where it is nested). There are ``and or not``, ``== != < <= > >=``, ``in`` and ``not in`` a list or
a text, ``exists(f)``, ``lower(f)``, ``startswith(f, "x")``, ``endswith(f, "x")``, and
``field("a name with spaces")``. Nothing else is accepted and nothing is ever executed. A passage
without the field satisfies ``!=`` and ``not in`` alone.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from atlas_lm.runtime.errors import InputError
from atlas_lm.types import Passage

OWN_FIELDS = ("id", "title", "section", "text")
"""Fields that every passage has, if empty."""
LONGEST = 10_000
"""Characters of a condition."""


class Missing:
    """The value of a field that a passage does not have."""

    def __bool__(self) -> bool:
        return False


MISSING = Missing()
Evaluate = Callable[[Passage], Any]


@dataclass(frozen=True)
class Where:
    """A condition, checked and ready."""

    text: str
    """As it was written."""
    fields: frozenset[str]
    """The fields it names."""
    evaluate: Evaluate
    """A passage to the condition's value."""

    @classmethod
    def parse(cls, text: str) -> Where:
        """Read a condition.

        Raises:
            InputError: it is not in the syntax above; the message shows the place.
        """
        try:
            if len(text) > LONGEST:
                raise InputError(f"where: longer than {LONGEST} characters")
            tree = ast.parse(text.strip(), mode="eval").body
            fields: set[str] = set()
            evaluate = _Compiler(text, fields).compiled(tree)
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"where {text!r}: {_problem(error)}; write a condition such as "
                "'source == \"hr\" and year >= 2020'"
            ) from error
        if not fields:
            raise InputError(f"where {text!r}: names no field of a passage")
        return cls(text, frozenset(fields), evaluate)

    def allows(self, passage: Passage) -> bool:
        """Return whether the passage satisfies the condition.

        Raises:
            TypeError: text is compared with a number by size.
        """
        return bool(self.evaluate(passage))


def value_of(passage: Passage, name: str) -> Any:
    """Return a passage's field, or `MISSING`."""
    if name in OWN_FIELDS:
        return getattr(passage, name)
    if name in passage.metadata:
        value = passage.metadata[name]
        return MISSING if value is None else value
    inner: Any = passage.metadata
    for part in name.split("."):
        if not isinstance(inner, Mapping) or part not in inner:
            return MISSING
        inner = inner[part]
    return MISSING if inner is None else inner


class _Compiler:
    """Turns a syntax tree into functions of a passage; refuses all that it does not know."""

    def __init__(self, text: str, fields: set[str]) -> None:
        self._text, self._fields = text, fields

    def compiled(self, node: ast.expr) -> Evaluate:
        if isinstance(node, ast.BoolOp):
            return self._joined(node)
        if isinstance(node, ast.UnaryOp):
            return self._unary(node)
        if isinstance(node, ast.Compare):
            return self._compared(node)
        if isinstance(node, ast.Call):
            return self._called(node)
        if isinstance(node, ast.Name | ast.Attribute):
            return self._named(node)
        if isinstance(node, ast.Constant | ast.List | ast.Tuple | ast.Set):
            constant = self._constant(node)
            return lambda passage: constant
        raise self._refused(node)

    def _joined(self, node: ast.BoolOp) -> Evaluate:
        parts = [self.compiled(value) for value in node.values]
        if isinstance(node.op, ast.And):
            return lambda passage: all(part(passage) for part in parts)
        return lambda passage: any(part(passage) for part in parts)

    def _unary(self, node: ast.UnaryOp) -> Evaluate:
        if isinstance(node.op, ast.Not):
            inner = self.compiled(node.operand)
            return lambda passage: not inner(passage)
        constant = self._constant(node)
        return lambda passage: constant

    def _compared(self, node: ast.Compare) -> Evaluate:
        sides = [self.compiled(side) for side in (node.left, *node.comparators)]
        tests = [_COMPARISONS.get(type(op)) for op in node.ops]
        known = [test for test in tests if test is not None]
        if len(known) < len(tests):
            raise self._refused(node)

        def compare(passage: Passage) -> bool:
            values = [side(passage) for side in sides]
            return all(
                test(left, right)
                for test, left, right in zip(known, values[:-1], values[1:], strict=True)
            )

        return compare

    def _called(self, node: ast.Call) -> Evaluate:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if node.keywords or name not in _FUNCTIONS or len(node.args) != _FUNCTIONS[name][0]:
            raise self._refused(node)
        if name == "field":
            if not (isinstance(node.args[0], ast.Constant) and type(node.args[0].value) is str):
                raise self._refused(node)
            return self._field(node.args[0].value)
        function = _FUNCTIONS[name][1]
        inner = [self.compiled(argument) for argument in node.args]
        return lambda passage: function(*(argument(passage) for argument in inner))

    def _named(self, node: ast.expr) -> Evaluate:
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            raise self._refused(node)
        if not parts and node.id in _WORDS:
            constant = _WORDS[node.id]
            return lambda passage: constant
        return self._field(".".join([node.id, *reversed(parts)]))

    def _field(self, name: str) -> Evaluate:
        self._fields.add(name)
        return lambda passage: value_of(passage, name)

    def _constant(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Constant) and isinstance(node.value, str | int | float | None):
            return MISSING if node.value is None else node.value
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            inner = self._constant(node.operand)
            if isinstance(inner, int | float):
                return -inner
        if isinstance(node, ast.List | ast.Tuple | ast.Set):
            return tuple(self._constant(element) for element in node.elts)
        raise self._refused(node)

    def _refused(self, node: ast.expr) -> InputError:
        part = ast.get_source_segment(self._text.strip(), node) or self._text
        functions = ", ".join(sorted(_FUNCTIONS))
        return InputError(
            f"where {self._text!r}: {part!r} is not allowed; use fields, texts, numbers, lists, "
            f"and, or, not, comparisons, in, and the functions {functions}"
        )


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def test(left: Any, right: Any) -> bool:
        if left is MISSING or right is MISSING:
            return False
        return bool(compare(left, right))

    return test


def _contained(left: Any, right: Any) -> bool:
    if left is MISSING or right is MISSING:
        return False
    if isinstance(right, str) or not isinstance(right, list | tuple | Mapping):
        return isinstance(left, str) and isinstance(right, str) and left in right
    return left in right


def _textual(test: Callable[[str, str], bool]) -> Callable[[Any, Any], bool]:
    return lambda left, right: (
        isinstance(left, str) and isinstance(right, str) and test(left, right)
    )


def _problem(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        text = (error.text or "").rstrip()
        lone = re.search(r"[^=<>!]=(?!=)", text) is not None
        hint = " (to compare, write ==)" if lone else ""
        return f"{error.msg} at character {error.offset}{hint}"
    return str(error) or type(error).__name__


_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: _ordered(operator.lt),
    ast.LtE: _ordered(operator.le),
    ast.Gt: _ordered(operator.gt),
    ast.GtE: _ordered(operator.ge),
    ast.In: _contained,
    ast.NotIn: lambda left, right: not _contained(left, right),
}
_FUNCTIONS: dict[str, tuple[int, Callable[..., Any]]] = {
    "exists": (1, lambda value: value is not MISSING and value != ""),
    "lower": (1, lambda value: value.lower() if isinstance(value, str) else value),
    "startswith": (2, _textual(str.startswith)),
    "endswith": (2, _textual(str.endswith)),
    "field": (1, lambda value: value),
}
_WORDS = {"true": True, "false": False, "null": MISSING}
