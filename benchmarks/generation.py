"""Writing 16 tokens from 20 passages, greedy and beam 4, against stock over padded states.

python benchmarks/generation.py --json
"""

from __future__ import annotations

from fid_workload import (
    TARGET,
    Workload,
    arguments,
    autocast,
    make,
    paired,
    reference_generate,
    report,
)

from atlas_lm.types import Generation


def table(
    work: Workload, beams: int, precision: str, repeats: int, device: str
) -> dict[str, dict[str, float]]:
    """Time both ways end to end, encoding included, and check that they write the same."""
    generation = Generation(max_new_tokens=TARGET, min_new_tokens=TARGET, num_beams=beams)
    with autocast(precision, device):
        rows = paired(
            {
                "reference-like: stock over padded states": lambda: reference_generate(
                    work, beams, TARGET
                ),
                "ours": lambda: work.reader.generate(work.inputs, generation),
            },
            repeats,
            device,
        )
        written = [answer.token_ids for answer in work.reader.generate(work.inputs, generation)]
        expected = reference_generate(work, beams, TARGET)[:, 1:].tolist()
    same = sum(list(ours) == stock for ours, stock in zip(written, expected, strict=True))
    rows["ours"]["same_answers"] = same / len(written)
    return rows


def main() -> None:
    chosen = arguments(__doc__ or "")
    work = make(chosen.device, chosen.passages)
    work.model.eval()
    tables = {
        f"{'greedy' if beams == 1 else f'beam {beams}'}, {precision}": table(
            work, beams, precision, chosen.repeats, chosen.device
        )
        for precision in (("fp32", "bf16") if chosen.bf16 else ("fp32",))
        for beams in (1, 4)
    }
    report(chosen, tables)


if __name__ == "__main__":
    main()
