"""Templates: text with named fields in braces, such as ``{query} title: {title}``."""

from __future__ import annotations

import string
from collections.abc import Collection

from atlas_lm.runtime.errors import InputError, did_you_mean


def template_pieces(
    template: str, known: Collection[str], *, option: str, needs: Collection[str] = ()
) -> tuple[tuple[str, str | None], ...]:
    """Return a template as (literal, field after it) pairs; the last field may be None.

    A field is a name in braces and no more. ``{{`` and ``}}`` write braces.

    Args:
        template: what is checked.
        known: the fields that it may name.
        option: what the template is called, for the error.
        needs: the fields that it must name.

    Raises:
        InputError: the braces do not match, a field is unknown or has more than a name (an
            attribute, a conversion, a format code), or one that is needed is missing.
    """
    place = f"{option}={template!r}"
    listed = ", ".join(f"{{{name}}}" for name in known)
    try:
        parsed = tuple(string.Formatter().parse(template))
    except ValueError as error:
        raise InputError(
            f"{place}: {error}; write a field as {listed} and a plain brace twice"
        ) from error
    for _, name, code, conversion in parsed:
        if name is not None and name not in known:
            hint = did_you_mean(name, known)
            raise InputError(f"{place}: unknown field {name!r}{hint}; known: {listed}")
        if code or conversion:
            raise InputError(f"{place}: write {{{name}}} without format codes")
    if missing := sorted(set(needs) - {name for _, name, _, _ in parsed}):
        raise InputError(f"{place} does not contain {{{missing[0]}}}")
    return tuple((literal, name) for literal, name, _, _ in parsed)
