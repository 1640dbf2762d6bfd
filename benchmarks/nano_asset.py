"""What a finished run of a staged recipe ships: the reader in fp16, and what was measured.

python benchmarks/nano_asset.py RUN OUT

``OUT`` gets ``reader/`` (weights in pieces of at most 15 MB, an ordinary transformers directory),
``measured.json`` (a list, one entry a stage) and ``curve.jsonl`` (every line of every stage's log).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from atlas_lm.reader.fid import FiDReader


def collect(run: Path, out: Path) -> None:
    """Write the asset of a finished run."""
    finished = json.loads((run / "finished.json").read_text())
    reader = FiDReader.from_pretrained(Path(finished["model"]) / "reader")
    reader.model.half().save_pretrained(out / "reader", max_shard_size="15MB")
    reader.tokenizer.save_pretrained(out / "reader")
    reader.settings.save(out / "reader")
    (out / "measured.json").write_text(json.dumps(finished["stages"], indent=1) + "\n")
    with (out / "curve.jsonl").open("w") as curve:
        for stage in (measured["stage"] for measured in finished["stages"]):
            for line in (run / stage / "metrics.jsonl").read_text().splitlines():
                curve.write(json.dumps({"stage": stage, **json.loads(line)}) + "\n")


if __name__ == "__main__":
    collect(Path(sys.argv[1]), Path(sys.argv[2]))
