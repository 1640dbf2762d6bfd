"""Scoring passages for the retriever: ours against the published code's way, paired in one run.

python benchmarks/scoring.py --json
"""

from __future__ import annotations

import torch
from fid_workload import (
    Workload,
    arguments,
    autocast,
    make,
    paired,
    reference_encode,
    reference_loop,
    reference_pdist,
    report,
)

from atlas_lm.reader.likelihood import measure_signals
from atlas_lm.reader.packing import PackedStates
from atlas_lm.runtime.modes import evaluating
from atlas_lm.types import ReaderSignals, Signal

ALL: frozenset[Signal] = frozenset({"passage_log_likelihood", "leave_one_out", "attention_mass"})


def shared(work: Workload, packed: PackedStates, *measure: Signal) -> ReaderSignals:
    """Signals over states that are already there."""
    with evaluating(work.reader), torch.no_grad():
        return measure_signals(work.model, packed, work.target, frozenset(measure))


def agreement(work: Workload) -> dict[str, dict[str, float]]:
    """Largest difference between ours and the reference-like scores, in nats per token."""
    ours = work.reader.signals(work.inputs, work.target, ALL)
    with torch.no_grad():
        loop = reference_loop(work, reference_encode(work))
    assert ours.passage_log_likelihood is not None
    assert ours.leave_one_out is not None
    return {
        "pdist": {
            "max_abs_difference": float(
                (ours.passage_log_likelihood - reference_pdist(work)).abs().max()
            )
        },
        "loop": {"max_abs_difference": float((ours.leave_one_out - loop).abs().max())},
    }


def table(work: Workload, precision: str, repeats: int, device: str) -> dict[str, object]:
    """Time every way of scoring under one precision."""
    with autocast(precision, device), torch.no_grad():
        packed = work.reader.encode(work.inputs)
        encoded = reference_encode(work)
        reader, inputs, target = work.reader, work.inputs, work.target
        pdist = paired(
            {
                "reference-like: every passage encoded again": lambda: reference_pdist(work),
                "ours, encoded again (needed under dropout)": lambda: reader.signals(
                    inputs, target, frozenset({"passage_log_likelihood"})
                ),
                "ours, shared states": lambda: shared(work, packed, "passage_log_likelihood"),
            },
            repeats,
            device,
        )
        loop = paired(
            {
                "reference-like: K decoder runs": lambda: reference_loop(work, encoded),
                "ours, shared states, float32": lambda: shared(work, packed, "leave_one_out"),
            },
            repeats,
            device,
        )
        mass = paired(
            {
                "PDist + LOOP, reference-like": lambda: (
                    reference_pdist(work),
                    reference_loop(work, encoded),
                ),
                "all three signals from shared states, ours": lambda: shared(work, packed, *ALL),
            },
            repeats,
            device,
        )
    return {f"PDist, {precision}": pdist, f"LOOP, {precision}": loop, f"all, {precision}": mass}


def main() -> None:
    chosen = arguments(__doc__ or "")
    work = make(chosen.device, chosen.passages)
    work.model.eval()
    tables: dict[str, object] = {"agreement": agreement(work)}
    for precision in ("fp32", "bf16") if chosen.bf16 else ("fp32",):
        tables |= table(work, precision, chosen.repeats, chosen.device)
    report(chosen, tables)


if __name__ == "__main__":
    main()
