"""One training step of the reader, without and with PDist, against the published code's way.

    python benchmarks/training_step.py --json

Forward and backward; no optimizer. "Encoded again" is what dropout forces: the signals are measured
in eval mode.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from fid_workload import (
    Workload,
    arguments,
    autocast,
    make,
    paired,
    reference_loss,
    reference_pdist,
    report,
)

from atlas_lm.types import Signal

PDIST: frozenset[Signal] = frozenset({"passage_log_likelihood"})


def stepped(work: Workload, loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
    """Make a step of a loss: gradients are dropped, so that every turn allocates alike."""

    def step() -> None:
        loss().backward()
        work.model.zero_grad(set_to_none=True)

    return step


def trimmed_loss(work: Workload) -> torch.Tensor:
    """Stock, padded to the batch's longest instead of 200."""
    inputs = work.inputs
    ids, mask = inputs.tokens.ids, inputs.tokens.mask
    encoded = work.model.encoder(
        input_ids=ids.flatten(0, 1), attention_mask=mask.flatten(0, 1).long()
    ).last_hidden_state
    output = work.model(
        encoder_outputs=(encoded.reshape(len(ids), -1, encoded.shape[-1]),),
        attention_mask=mask.flatten(1).long(),
        labels=work.labels,
        use_cache=False,
    )
    return output.loss


def reference_step(work: Workload) -> torch.Tensor:
    reference_pdist(work)
    return reference_loss(work)


def again_step(work: Workload) -> torch.Tensor:
    work.reader.signals(work.inputs, work.target, PDIST)
    return work.reader.loss(work.inputs, work.target).mean


def shared_step(work: Workload) -> torch.Tensor:
    passages = work.inputs.n_context
    reading = work.reader.read(work.inputs, work.target, n_context=passages, measure=PDIST)
    return reading.loss.mean


def tables(work: Workload, precision: str, repeats: int, device: str) -> dict[str, object]:
    """Time both kinds of step under one precision."""
    with autocast(precision, device):
        plain = {
            "reference-like: padded to 200": lambda: reference_loss(work),
            "stock, padded to the batch's longest": lambda: trimmed_loss(work),
            "ours": lambda: work.reader.loss(work.inputs, work.target).mean,
        }
        pdist = {
            "reference-like: padded, every passage encoded again": lambda: reference_step(work),
            "ours, encoded again (needed under dropout)": lambda: again_step(work),
            "ours, shared states": lambda: shared_step(work),
        }
        return {
            f"step without scoring, {precision}": paired(
                {name: stepped(work, loss) for name, loss in plain.items()}, repeats, device
            ),
            f"step with PDist, {precision}": paired(
                {name: stepped(work, loss) for name, loss in pdist.items()}, repeats, device
            ),
        }


def main() -> None:
    chosen = arguments(__doc__ or "")
    work = make(chosen.device, chosen.passages)
    work.model.train()
    result: dict[str, object] = {}
    for precision in ("fp32", "bf16") if chosen.bf16 else ("fp32",):
        result |= tables(work, precision, chosen.repeats, chosen.device)
    report(chosen, result)


if __name__ == "__main__":
    main()
