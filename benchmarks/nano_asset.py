"""What a finished run of a staged recipe ships: the reader in fp16, and what was measured.

python benchmarks/nano_asset.py RUN OUT FIGURES

``OUT`` becomes a model directory without a retriever: ``atlas.json``, which words questions as the
last stage did and retrieves, and ``reader/`` (weights in pieces of at most 15 MB, an ordinary
transformers directory). ``FIGURES`` gets ``measured.json`` (a list, one entry a stage) and
``curve.jsonl`` (stage, step and loss of every line of every stage's log).
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

from atlas_lm.model import FORMAT_VERSION, Atlas
from atlas_lm.reader.fid import FiDReader
from atlas_lm.runtime.files import write_json
from atlas_lm.runtime.structure import unstructure
from atlas_lm.training.run_log import LOG_FILE, read_log


def collect(run: Path, out: Path, figures: Path) -> None:
    """Write the asset of a finished run, and its figures."""
    stages = json.loads((run / "finished.json").read_text())["stages"]
    last = run / stages[-1]["stage"] / "model"
    config = Atlas.saved_config(last)
    context = dataclasses.replace(config.context, passages_from="index")
    reader = FiDReader.from_pretrained(last / "reader")
    reader.model.half().save_pretrained(out / "reader", max_shard_size="15MB")
    reader.tokenizer.save_pretrained(out / "reader")
    reader.settings.save(out / "reader")
    saved = unstructure(dataclasses.replace(config, context=context))
    write_json(out / "atlas.json", {"format_version": FORMAT_VERSION, **saved})
    figures.mkdir(parents=True, exist_ok=True)
    (figures / "measured.json").write_text(json.dumps(stages, indent=1) + "\n")
    with (figures / "curve.jsonl").open("w") as curve:
        for stage in (measured["stage"] for measured in stages):
            for row in read_log(run / stage / LOG_FILE):
                kept = {name: row[name] for name in ("step", "reader_loss") if name in row}
                curve.write(json.dumps({"stage": stage, **kept}) + "\n")


if __name__ == "__main__":
    collect(*map(Path, sys.argv[1:4]))
