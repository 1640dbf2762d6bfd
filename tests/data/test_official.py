from __future__ import annotations

import gzip
import json
import tracemalloc
import zipfile

import pytest

from atlas_lm.data.fever import Fever
from atlas_lm.data.mmlu import Mmlu
from atlas_lm.data.nq import NaturalQuestions
from atlas_lm.data.official import PrepareSettings, prepare_official
from atlas_lm.runtime.errors import InputError
from tests.data.official_files import jsonl, made, tar, write


def questions(count, start=0):
    return [{"question": f"q{n}", "answer": [f"a{n}"]} for n in range(start, start + count)]


@pytest.fixture
def train(tmp_path):
    return jsonl(tmp_path / "NQ-open.train.jsonl", *questions(100))


def test_the_manifest_counts_and_checks_everything(tmp_path, train):
    manifest, _ = made(NaturalQuestions(), [train], tmp_path / "out", shots=(8,), seeds=1)
    on_disk = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert on_disk == manifest
    assert manifest["kind"] == "nq"
    assert manifest["inputs"][0]["name"] == train
    assert len(manifest["inputs"][0]["sha256"]) == 64
    assert {name: file["rows"] for name, file in manifest["files"].items()} == {
        "shots/8-seed0.jsonl": 8,
        "train.jsonl": 100,
    }


def test_the_same_again_writes_nothing_and_a_change_writes_anew(tmp_path, train):
    out = tmp_path / "out"
    made(NaturalQuestions(), [train], out)
    before = (out / "train.jsonl").stat().st_ino
    made(NaturalQuestions(), [train], out)
    assert (out / "train.jsonl").stat().st_ino == before
    made(NaturalQuestions(), [train], out, seeds=2)
    assert (out / "train.jsonl").stat().st_ino != before
    (out / "train.jsonl").write_text("damaged\n")
    made(NaturalQuestions(), [train], out, seeds=2)
    assert (out / "train.jsonl").read_text() != "damaged\n"


def test_a_directory_of_other_files_is_left_alone(tmp_path, train):
    out = tmp_path / "out"
    made(NaturalQuestions(), [train], out)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"did not write and would remove \(notes.txt\)"):
        made(NaturalQuestions(), [train], out, seeds=2)
    assert (out / "notes.txt").exists()
    (out / "notes.txt").unlink()
    with pytest.raises(InputError, match=r"prepare fever did not write and .*\(nq files\)"):
        made(Fever(), [train], out)


def test_shots_do_not_depend_on_the_order_and_grow(tmp_path, train):
    other = tmp_path / "other-train.jsonl"
    jsonl(other, *reversed(questions(100)))
    settings = {"shots": (4, 16), "seeds": 2}
    rows = made(NaturalQuestions(), [train], tmp_path / "one", **settings)[1]
    same = made(NaturalQuestions(), [str(other)], tmp_path / "two", **settings)[1]
    asked = [row["question"] for row in rows["shots/16-seed1"]]
    assert asked == [row["question"] for row in same["shots/16-seed1"]]
    assert asked[:4] == [row["question"] for row in rows["shots/4-seed1"]]
    assert asked != [row["question"] for row in rows["shots/16-seed0"]]


def test_too_few_rows_for_the_shots(tmp_path, train):
    with pytest.raises(InputError, match=r"--shots 200: train.jsonl has 100 distinct rows"):
        made(NaturalQuestions(), [train], tmp_path / "out", shots=(200,))
    small = jsonl(tmp_path / "small-train.jsonl", *questions(3))
    assert "shots" not in str(made(NaturalQuestions(), [small], tmp_path / "out")[1].keys())


def test_dev_is_split_off_train(tmp_path, train):
    rows = made(NaturalQuestions(), [train], tmp_path / "out", dev=10)[1]
    assert (len(rows["train"]), len(rows["dev"])) == (90, 10)
    assert not {row["id"] for row in rows["train"]} & {row["id"] for row in rows["dev"]}
    dev = jsonl(tmp_path / "dev.jsonl", *questions(1))
    with pytest.raises(InputError, match="there is a dev split already"):
        made(NaturalQuestions(), [train, dev], tmp_path / "two", dev=10)
    with pytest.raises(InputError, match="--dev 100: takes every row"):
        made(NaturalQuestions(), [train], tmp_path / "two", dev=100)
    with pytest.raises(InputError, match="no train split"):
        made(NaturalQuestions(), [dev], tmp_path / "two", dev=1)


@pytest.mark.parametrize("wrong", [{"shots": (0,)}, {"seeds": 0}, {"dev": -1}])
def test_wrong_numbers(wrong):
    with pytest.raises(InputError, match="give"):
        PrepareSettings(**wrong)


def test_a_directory_and_files_packed_in_other_ways(tmp_path):
    folder = tmp_path / "files"
    jsonl(folder / "nq-train-00.jsonl.gz", *questions(2))
    jsonl(folder / "more" / "nq-train-01.jsonl", *questions(2, 2))
    write(folder / "readme.txt", "no")
    jsonl(folder / "NQ-open.efficientqa.dev.jsonl", *questions(1))
    (tmp_path / "packed").mkdir()
    with zipfile.ZipFile(tmp_path / "packed" / "nq.zip", "w") as archive:
        archive.writestr("x/nq-dev.jsonl", json.dumps(questions(1)[0]) + "\n")
    sources = [str(folder), str(tmp_path / "packed")]
    _, rows = made(NaturalQuestions(), sources, tmp_path / "out")
    assert [row["question"] for row in rows["train"]] == ["q2", "q3", "q0", "q1"]
    assert len({row["id"] for row in rows["train"]}) == 4
    assert len(rows["dev"]) == 1


def test_parquet_of_the_hub(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet")
    table = pyarrow.Table.from_pylist(
        [{"question": "q", "subject": "anatomy", "choices": ["a", "b"], "answer": 1}]
    )
    for folder in ("all", "anatomy"):
        (tmp_path / "mmlu" / folder).mkdir(parents=True)
        file = tmp_path / "mmlu" / folder / "validation-00000-of-00001.parquet"
        pyarrow.parquet.write_table(table, file)
    pyarrow.parquet.write_table(
        table.set_column(1, "subject", [[""]]),
        tmp_path / "mmlu" / "all" / "auxiliary_train-00000-of-00001.parquet",
    )
    rows = made(Mmlu(), [str(tmp_path / "mmlu")], tmp_path / "out")[1]
    assert rows["full"][0]["id"] == "auxiliary_train-auxiliary_train-1"
    assert rows["val"] == [
        {
            "id": "anatomy-val-1",
            "question": "q",
            "options": {"A": "a", "B": "b"},
            "answer": "B",
            "subject": "anatomy",
        }
    ]
    table = pyarrow.Table.from_pylist(questions(2))
    pyarrow.parquet.write_table(table, tmp_path / "train.parquet")
    nq = made(NaturalQuestions(), [str(tmp_path / "train.parquet")], tmp_path / "nq")[1]
    assert [row["answers"] for row in nq["train"]] == [["a0"], ["a1"]]


def test_damaged_files_are_named(tmp_path):
    content = gzip.compress(b"".join(json.dumps(row).encode() + b"\n" for row in questions(500)))
    cut = tmp_path / "cut-train.jsonl.gz"
    cut.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"cut-train.jsonl.gz: damaged or cut short .*download"):
        made(NaturalQuestions(), [str(cut)], tmp_path / "out")
    archive = tar(tmp_path / "data.tar", {"a/nq-train.jsonl": "x" * 30_000})
    whole = (tmp_path / "data.tar").read_bytes()
    (tmp_path / "data.tar").write_bytes(whole[:5_000])
    with pytest.raises(InputError, match=r"data.tar.*(damaged or cut short|malformed)"):
        made(NaturalQuestions(), [archive], tmp_path / "out")
    bad = tmp_path / "train.jsonl.bz2"
    bad.write_bytes(b"BZh9 no bzip2 at all")
    with pytest.raises(InputError, match=r"train.jsonl.bz2: not a whole bzip2 file"):
        made(NaturalQuestions(), [str(bad)], tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("questions.jsonl", '{"question": "q"}\n', "does not say which split.*train="),
        ("train.jsonl", "", "no row to write .the files are empty"),
        ("train.json", '[{"question": "q", "answer": ["a"]}', "train.json:1: it ends inside"),
        ("train.json", '[{"question": "q', "train.json:1: malformed JSON .*cut short"),
        ("train.json", "[1]", "train.json:1: '1' is no JSON object"),
        ("train.json", b'["\xff\xfe"]', "not UTF-8"),
    ],
)
def test_wrong_files(tmp_path, name, content, told):
    file = write(tmp_path / name, content)
    with pytest.raises(InputError, match=told):
        made(NaturalQuestions(), [file], tmp_path / "out")


def test_wrong_sources(tmp_path, train):
    with pytest.raises(InputError, match="named twice"):
        made(NaturalQuestions(), [train, train], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no official file in this directory"):
        made(NaturalQuestions(), [str(tmp_path / "empty")], tmp_path / "out")
    archive = tar(tmp_path / "a.tar", {"readme": "x"})
    with pytest.raises(InputError, match="no official file in this archive"):
        made(NaturalQuestions(), [archive], tmp_path / "out")


def test_half_a_character_is_a_malformed_row(tmp_path):
    rows = '[{"question": "q \\ud800", "answers": ["a"]},\n{"question": "q", "answers": ["a"]}]'
    file = write(tmp_path / "train.json", rows)
    with pytest.raises(InputError, match=r"train.json:1: half of a surrogate pair"):
        made(NaturalQuestions(), [file], tmp_path / "out")
    _, written = made(NaturalQuestions(), [file], tmp_path / "out", skip_malformed=True)
    assert len(written["train"]) == 1


def test_all_rows_malformed_is_an_error_whatever_is_asked(tmp_path):
    file = jsonl(tmp_path / "train.jsonl", {"id": 1}, {"id": 2})
    with pytest.raises(InputError, match=r"every row is malformed; the first: .*:1: missing"):
        made(Fever(), [file], tmp_path / "out", skip_malformed=True)


def test_a_large_array_is_not_held_in_memory(tmp_path):
    filler = [{"title": "t", "text": "x" * 20_000}]
    rows = [row | {"negative_ctxs": filler} for row in questions(1500)]
    file = write(tmp_path / "train.json", json.dumps(rows, indent=4))
    del rows, filler
    tracemalloc.start()
    prepare_official(NaturalQuestions(), [file], tmp_path / "out")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 12e6, "a 30 MB file was held"
