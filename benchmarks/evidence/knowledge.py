"""Does the answer follow the index? Facts are edited, or dated, and the same reader reads on.

python benchmarks/evidence/knowledge.py tiny --seeds 0 1 2
python benchmarks/evidence/knowledge.py factbook --questions 200

tiny      The made-up world: retriever and reader learn together from three quarters of the
          questions, then every fact of a relation is passed on to another person and the passages
          are indexed anew by the same encoder; nothing is trained. And two editions of the world
          in one index, a year each, asked for by date.
factbook  Countries' capitals, anthems and internet codes, true and passed on to another country;
          growth rates and incomes of three years in one index, asked for by date (in the manner of
          TempLAMA). The reader is the published SmolLM2 behind a few-shot prompt, or, with
          --teacher, one that minipedia_joint.py has trained.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from cells import Cell, add_cell_arguments, run_cells
from factbook import Fact, dated_facts, edited, static_facts
from minipedia_setup import restore
from safetensors.torch import load_file

from atlas_lm.cli.joint import build_index, open_halves
from atlas_lm.cli.tiny import TinyRun, draw_world, joint_config, teach_reader, train_objective
from atlas_lm.config import RunConfig, find_recipe, load_recipe
from atlas_lm.data.tinyworld import TinyWorld
from atlas_lm.evaluation import AnswerRecord, exact_match, measure
from atlas_lm.evaluation.bootstrap import estimate
from atlas_lm.evaluation.conditions import measure_conditions
from atlas_lm.model import Atlas
from atlas_lm.passages.store import PassageStore
from atlas_lm.tasks import load_examples
from atlas_lm.types import Example

CONDITIONS = ("closed", "open", "oracle", "random")
EDITED = ("contradicting", "contradicting, oracle")
YEARS = (2012, 2013, 2014)
Questions = Sequence[tuple[Example, dict[int, str]]]
"""Questions with the value of each year."""
SHOWN = 4


def matrix(
    true: Atlas, changed: Atlas, examples: Sequence[Example], new: Sequence[str], bsz: int
) -> dict[str, Any]:
    """Return how many answers are the old value and how many the new, by kind of passages."""
    found = measure_conditions(true, examples, names=CONDITIONS, ks=(1, 5), bsz=bsz)
    twisted = measure_conditions(changed, examples, names=("open", "oracle"), ks=(1, 5), bsz=bsz)
    both = {**found, **dict(zip(EDITED, twisted.values(), strict=True))}
    return {
        "conditions": {name: follows(e.records, new) for name, e in both.items()},
        "recall": {
            "true index": found["open"].metrics["gold_recall_at_1"].to_dict(),
            "edited index": twisted["open"].metrics["gold_recall_at_1"].to_dict(),
        },
        "questions": len(examples),
    }


def follows(records: Sequence[AnswerRecord], new: Sequence[str]) -> dict[str, Any]:
    """Return the shares of answers that are the old and the new value, with both per question."""
    old = [record.metrics["exact_match"] for record in records]
    changed = [
        exact_match(record.generated.text if record.generated else "", [value])
        for record, value in zip(records, new, strict=True)
    ]
    return {
        "old": estimate(old).to_dict(),
        "new": estimate(changed).to_dict(),
        "values": {"old": [int(v) for v in old], "new": [int(v) for v in changed]},
    }


def indexed(atlas: Atlas, rows: Iterable[dict[str, Any]], folder: Path) -> Atlas:
    """Return the same halves over an index of these passages, built below ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "passages.jsonl"
    file.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), "utf-8")
    if not (folder / "index").is_dir():
        build_index(atlas, PassageStore.open([file]), folder / "index")
    over = atlas.with_config(atlas.config)
    over.open_index(folder / "index")
    return over


def dated(
    atlas: Atlas,
    questions: Sequence[tuple[Example, dict[int, str]]],
    years: Sequence[int],
    bsz: int,
) -> dict[str, Any]:
    """Return how many answers are the value of the year asked for, and how many another's."""
    results: dict[str, Any] = {}
    for year in years:
        context = dataclasses.replace(atlas.config.context, as_of=f"{year}-06-30")
        asked = atlas.with_config(dataclasses.replace(atlas.config, context=context))
        examples = [dataclasses.replace(e, answers=(values[year],)) for e, values in questions]
        records = measure(asked, examples, ks=(1,), bsz=bsz).records
        others = [
            max(
                exact_match(record.generated.text if record.generated else "", [value])
                for other, value in values.items()
                if other != year
            )
            for record, (_, values) in zip(records, questions, strict=True)
        ]
        results[str(year)] = {
            "this year's": estimate([r.metrics["exact_match"] for r in records]).to_dict(),
            "another year's": estimate(others).to_dict(),
        }
    return {"years": results, "questions": len(questions)}


def tiny_world(out: Path, seed: int, objective: str) -> tuple[TinyRun, TinyWorld]:
    """Return a world with both halves trained together, made at the first call."""
    from atlas_lm.data.tinyworld import TinyWorldConfig, make_tinyworld

    run = TinyRun(out / "worlds" / str(seed))
    if not (run.objective(objective) / "model").is_dir():
        draw_world(run, seed)
        teach_reader(run, seed)
        config = joint_config(run, seed)
        test = load_examples(run.world / "test.jsonl", config.task)
        train_objective(run, config, objective, test)
    return run, make_tinyworld(TinyWorldConfig(seed=seed))


def passed_on(world: TinyWorld, seed: int) -> list[dict[str, Any]]:
    """Return the passages with each relation's values passed on to another person."""
    draw = random.Random(f"edit {seed}")
    texts: dict[str, str] = {}
    for relation in world.values:
        rows = [row for row in world.passages if row["text"].startswith(f"{relation} ")]
        draw.shuffle(rows)
        for row, other in zip(rows, [*rows[1:], rows[0]], strict=True):
            texts[row["id"]] = other["text"]
    return [{**row, "text": texts[row["id"]]} for row in world.passages]


def tiny(out: Path, seed: int) -> dict[str, Any]:
    """Return the matrix of the made-up world, for questions trained on and not."""
    run, world = tiny_world(out, seed, "pdist")
    atlas = Atlas.from_pretrained(run.objective("pdist") / "model")
    folder = out / "worlds" / str(seed)
    changed_rows = passed_on(world, seed)
    true = indexed(atlas, world.passages, folder / "true")
    changed = indexed(atlas, changed_rows, folder / "edited")
    values = {row["id"]: row["text"].split()[-1] for row in changed_rows}
    result: dict[str, Any] = {"seed": seed}
    for split in ("train", "test"):
        examples = load_examples(run.world / f"{split}.jsonl", atlas.config.task)
        new = [values[example.id] for example in examples]
        result[split] = matrix(true, changed, examples, new, bsz=64)
    return result


def tiny_dated(out: Path, seed: int) -> dict[str, Any]:
    """Return what two editions of the world in one index give, asked for by date."""
    run, world = tiny_world(out, seed, "pdist")
    atlas = Atlas.from_pretrained(run.objective("pdist") / "model")
    editions = {2012: world.passages, 2013: passed_on(world, seed)}
    rows = [
        {
            **row,
            "id": f"{row['id']}/{year}",
            "valid_from": f"{year}-01-01",
            "valid_to": f"{year}-12-31",
        }
        for year, passages in editions.items()
        for row in passages
    ]
    over = indexed(atlas, rows, out / "worlds" / str(seed) / "dated")
    examples = load_examples(run.world / "test.jsonl", atlas.config.task)
    values = {
        year: {row["id"]: row["text"].split()[-1] for row in passages}
        for year, passages in editions.items()
    }
    questions = [
        (
            dataclasses.replace(example, gold_passage_ids=frozenset()),
            {year: values[year][example.id] for year in editions},
        )
        for example in examples
    ]
    return {"seed": seed, **dated(over, questions, tuple(editions), bsz=64)}


class FactBook:
    """The published reader, or a trained one, over the fact book."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args

    def atlas(self, facts: Sequence[Fact]) -> Atlas:
        """Return the model; the first facts are shown in the prompt of an untrained reader."""
        reading = "fused" if self.args.teacher else "one_prompt"
        config = load_recipe(
            find_recipe("quickstart"),
            [f'reader.settings.reading="{reading}"', "staleness.query_side=false"],
            RunConfig,
        )
        atlas = open_halves(config)
        reader: Any = atlas.reader
        if self.args.teacher:
            restore(reader.model, load_file(self.args.teacher))
        else:
            shown = tuple((fact.question, fact.value) for fact in facts)
            reader = reader.with_settings(demonstrations=shown)
        return Atlas(atlas.retriever, reader, atlas.config)

    def static(self) -> dict[str, Any]:
        facts = static_facts()
        new = {fact.id: fact.value for fact in edited(facts, 0)}
        order = random.Random(0).sample(facts, len(facts))
        shown, asked = order[:SHOWN], order[SHOWN : SHOWN + self.args.questions]
        atlas = self.atlas(shown)
        folder = self.args.out / "factbook"
        true = indexed(atlas, (fact.row() for fact in facts), folder / "true")
        changed = indexed(atlas, (f.row() for f in edited(facts, 0)), folder / "edited")
        examples = [self.example(fact) for fact in asked]
        values = [new[fact.id] for fact in asked]
        result = matrix(true, changed, examples, values, bsz=8)
        return {"relations": [fact.relation for fact in asked], **result}

    def dated(self) -> dict[str, Any]:
        facts = [fact for fact in dated_facts() if fact.year in YEARS]
        by_question: dict[str, dict[int, Fact]] = {}
        for fact in facts:
            assert fact.year is not None
            by_question.setdefault(fact.question, {})[fact.year] = fact
        whole = [years for years in by_question.values() if len(years) == len(YEARS)]
        order = random.Random(0).sample(whole, len(whole))
        shown = [years[YEARS[0]] for years in order[:SHOWN]]
        asked = order[SHOWN : SHOWN + self.args.questions]
        atlas = indexed(
            self.atlas(shown), (fact.row() for fact in facts), self.args.out / "factbook" / "dated"
        )
        questions = [
            (
                dataclasses.replace(self.example(years[YEARS[0]]), gold_passage_ids=frozenset()),
                {year: fact.value for year, fact in years.items()},
            )
            for years in asked
        ]
        return dated(atlas, questions, YEARS, bsz=8)

    @staticmethod
    def example(fact: Fact) -> Example:
        return Example(
            fact.id, fact.question, fact.value, (fact.value,), gold_passage_ids=frozenset({fact.id})
        )


def cells(args: argparse.Namespace) -> list[Cell]:
    if args.world == "tiny":
        jobs: list[tuple[str, Callable[..., dict[str, Any]], float]] = [
            ("edited", tiny, 60),
            ("dated", tiny_dated, 10),
        ]
        return [
            Cell(f"knowledge/tiny-{name}/{seed}", _bound(job, args.out, seed), seconds)
            for seed in args.seeds
            for name, job, seconds in jobs
        ]
    book = FactBook(args)
    reader = args.teacher.stem if args.teacher else "few-shot"
    name = f"knowledge/factbook-{{}}/{reader}-q{args.questions}"
    return [
        Cell(name.format("edited"), book.static, 60 + 6 * 0.4 * args.questions),
        Cell(name.format("dated"), book.dated, 60 + 3 * 0.4 * args.questions),
    ]


def _bound(job: Callable[..., dict[str, Any]], *args: Any) -> Callable[[], dict[str, Any]]:
    return lambda: job(*args)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("world", choices=["tiny", "factbook"])
    add_cell_arguments(parser, out="runs/evidence/knowledge")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="tiny worlds")
    parser.add_argument("--questions", type=int, default=200, help="asked of the fact book")
    parser.add_argument("--teacher", type=Path, help="a teachers/*.safetensors of minipedia_joint")
    args = parser.parse_args()
    run_cells(cells(args), args)


if __name__ == "__main__":
    main()
