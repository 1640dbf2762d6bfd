"""The same metrics for each group of examples: by subject, source, language, year."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich.table import Table

from atlas_lm.evaluation.evaluate import summarise
from atlas_lm.evaluation.records import AnswerRecord, Metrics
from atlas_lm.evaluation.report import display_name, show_estimate, show_percent
from atlas_lm.runtime.errors import InputError, did_you_mean
from atlas_lm.runtime.logs import verbatim
from atlas_lm.types import Example

_SIMPLE = (str, int, float, bool)


def check_field(examples: Iterable[Example], field: str) -> None:
    """Refuse examples of which one has nothing to group it by.

    Raises:
        InputError: an example has no such field, or a value that is no text or number.
    """
    for example in examples:
        if not isinstance(example.metadata.get(field), _SIMPLE):
            known = sorted(k for k, v in example.metadata.items() if isinstance(v, _SIMPLE))
            raise InputError(
                f"cannot group by {field!r}: example {example.id!r} has no such text or number"
                f"{did_you_mean(field, known)}; it has: {', '.join(known) or 'none'}"
            )


def by_field(records: Sequence[AnswerRecord], field: str) -> dict[str, Metrics]:
    """Return the means of every group of examples that have one value of ``field``, by value.

    The field is one of the data file's rows that no task has a use for, such as ``subject``.

    Raises:
        InputError: as `check_field` does.
    """
    check_field((record.example for record in records), field)
    groups: dict[str, list[AnswerRecord]] = {}
    for record in records:
        groups.setdefault(str(record.example.metadata[field]), []).append(record)
    return {value: summarise(groups[value]) for value in sorted(groups)}


def mean_of_groups(groups: Mapping[str, Metrics]) -> dict[str, float]:
    """Return the mean over groups of each metric's mean: every group counts as much as another."""
    names = dict.fromkeys(name for metrics in groups.values() for name in metrics)
    found = {name: [m[name].mean for m in groups.values() if name in m] for name in names}
    return {name: sum(means) / len(means) for name, means in found.items()}


def groups_table(groups: Mapping[str, Metrics], field: str) -> Table:
    """Return a table of groups, largest first, x100; the last line is the mean over groups."""
    means = mean_of_groups(groups)
    table = Table(caption="x100; in brackets the 95% bootstrap interval")
    table.add_column(verbatim(field))
    table.add_column("examples", justify="right")
    for name in means:
        table.add_column(display_name(name), justify="right")
    size = {value: max(e.n for e in metrics.values()) for value, metrics in groups.items()}
    for value in sorted(groups, key=lambda value: -size[value]):
        metrics = groups[value]
        cells = [show_estimate(metrics[name]) if name in metrics else "" for name in means]
        table.add_row(verbatim(value), f"{size[value]:,}", *cells)
    table.add_section()
    table.add_row(
        "mean of groups", f"{len(groups):,} groups", *(show_percent(m) for m in means.values())
    )
    return table
