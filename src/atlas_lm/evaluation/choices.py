"""The choice a reader makes among given targets: each scored whole, orders averaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from atlas_lm.model import Atlas
from atlas_lm.runtime.errors import InputError
from atlas_lm.types import Batch, Example, Generated, Passage, Retrieved


@dataclass(frozen=True)
class Choice(Generated):
    """The option that a reader finds likeliest."""

    probabilities: Mapping[str, float]
    """What each distinct option is given, adding up to 1; averaged over the orders."""
    as_given: str
    """The likeliest option in the order that the file gives."""
    n_orders: int
    """Orders that were averaged over; 1 where the task asks for none."""


def choose(atlas: Atlas, batch: Batch, retrieved: Retrieved) -> list[Choice]:
    """Return the likeliest option of every example, all of which have some.

    The score of a choice is log p of its whole target, as `Reader.score` gives it; a softmax over
    the distinct options makes probabilities of an order's scores, and these are averaged over the
    orders that the task asks for (de-biased inference: Atlas, section 4.4). Options with equal
    texts are one, which has the probability of both.
    """
    passages = retrieved.first(atlas.config.context.n_context).passages
    orders = [atlas.task.orders(example) for example in batch.examples]
    forms = [form for every in orders for form in every]
    read = [given for every, given in zip(orders, passages, strict=True) for _ in every]
    scores = [
        scored
        for start in range(0, len(forms), max(len(batch), 1))
        for scored in _scored(
            atlas, forms[start : start + len(batch)], read[start : start + len(batch)]
        )
    ]
    chosen, place = [], 0
    for every in orders:
        chosen.append(_chosen(scores[place : place + len(every)]))
        place += len(every)
    return chosen


def option_probabilities(
    options: Sequence[str], targets: Sequence[str], log_prob: Sequence[float]
) -> dict[str, float]:
    """Return the probability of each distinct option, in order.

    Raises:
        InputError: none of the targets has any probability.
    """
    by_option: dict[str, dict[str, float]] = {}
    for option, target, score in zip(options, targets, log_prob, strict=True):
        by_option.setdefault(option, {})[target] = score
    total = torch.stack(
        [
            torch.tensor(list(own.values()), dtype=torch.float64).logsumexp(0)
            for own in by_option.values()
        ]
    )
    if not bool(torch.isfinite(total).any()):
        raise InputError(f"no option of {', '.join(by_option)} has any probability")
    return dict(zip(by_option, total.softmax(0).tolist(), strict=True))


def _chosen(orders: Sequence[dict[str, float]]) -> Choice:
    mean = {option: sum(order[option] for order in orders) / len(orders) for option in orders[0]}
    best = max(mean, key=mean.__getitem__)
    log_prob = float(torch.tensor(mean[best], dtype=torch.float64).log())
    as_given = max(orders[0], key=orders[0].__getitem__)
    return Choice(best, (), log_prob, mean, as_given, len(orders))


def _scored(
    atlas: Atlas, forms: Sequence[Example], passages: Sequence[Sequence[Passage]]
) -> list[dict[str, float]]:
    """Return the probabilities of each form's options."""
    inputs = atlas.reader.collate([form.query for form in forms], passages)
    most = max(len(form.choices) for form in forms)
    targets = [[_at(form.choices, n) for form in forms] for n in range(most)]
    scores: Float[Tensor, "n_choices bsz"] = atlas.reader.score_each(inputs, targets).cpu()
    return [
        option_probabilities(form.options, form.choices, column[: len(form.choices)].tolist())
        for form, column in zip(forms, scores.T, strict=True)
    ]


def _at(choices: Sequence[str], number: int) -> str:
    """Return a choice, or where there are fewer the first, whose score is then left unread."""
    return choices[number] if number < len(choices) else choices[0]
