"""Every verb of ``atlas-lm index``, as a user would type it."""

from __future__ import annotations

import shutil

import pytest

from atlas_lm.cli import main
from tests.cli.running import said, write


def complaint(capsys, *words) -> str:
    assert main(list(map(str, words))) == 2
    return " ".join(capsys.readouterr().err.split())


@pytest.fixture
def encoder(tiny):
    return ["--retriever", tiny.drawn / "retriever"]


@pytest.fixture
def passages(tmp_path):
    rows = [
        {"id": f"p{n}", "text": f"number {n}", "source": "hr" if n % 2 else "it", "year": 2000 + n}
        for n in range(12)
    ]
    return write(tmp_path / "base.jsonl", *rows)


@pytest.fixture
def index(passages, encoder, tmp_path):
    out = tmp_path / "base.idx"
    words = ["index", "build", "--passages", passages, *encoder, "--out", out, "--copy-passages"]
    assert main(list(map(str, words))) == 0
    return out


def test_an_index_through_its_life(index, encoder, tmp_path, capsys):
    news = write(
        tmp_path / "news.jsonl", {"id": "n1", "text": "new"}, {"id": "n2", "text": "newer"}
    )
    change = said(capsys, "index", "add", index, "--passages", news, *encoder)
    assert (change["added"], change["live"], change["parts"]) == (2, 14, 1)
    again = write(tmp_path / "again.jsonl", {"id": "n1", "text": "newest"})
    message = complaint(capsys, "index", "add", index, "--passages", again, *encoder)
    assert "id 'n1' is in the index already" in message
    change = said(capsys, "index", "update", index, "--passages", again, *encoder)
    assert (change["replaced"], change["live"], change["dead"]) == (1, 14, 1)
    gone = tmp_path / "gone.txt"
    gone.write_text("p3\np4\n")
    change = said(capsys, "index", "delete", index, "--ids", "p5", "--ids-file", gone)
    assert (change["deleted"], change["live"], change["dead"]) == (3, 11, 4)
    info = said(capsys, "index", "info", index)
    assert (info["passages"], info["rows"], info["deleted"], info["parts"]) == (11, 15, 4, 2)
    assert info["steps"] == {"0": 1.0}
    assert info["bytes"]["total"] > info["bytes"]["vectors"] > 0
    sound = said(capsys, "index", "verify", index, *encoder, "--sample", 5)
    assert sound["sound"]
    assert sound["sampled"] == 5
    assert sound["lowest_cosine"] > 0.9999
    report = said(capsys, "index", "compact", index)
    assert (report["live"], report["removed"], report["parts"]) == (11, 4, 2)
    assert report["still_in"] == []
    assert said(capsys, "index", "info", index)["passages"] == 11
    assert said(capsys, "index", "verify", index)["sound"]
    report = said(capsys, "index", "refresh", index, *encoder, "--step", 30)
    assert (report["live"], report["removed"]) == (11, 0)
    assert said(capsys, "index", "info", index)["steps"] == {"30": 1.0}
    assert said(capsys, "index", "verify", index, *encoder)["sound"]
    for words in (["info"], ["verify"], ["compact"], ["refresh", *encoder]):
        assert main(["index", words[0], str(index), *map(str, words[1:])]) == 0


def test_what_compaction_says(passages, encoder, tmp_path, capsys):
    out = tmp_path / "own.idx"
    words = ["index", "build", "--passages", passages, *encoder, "--out", out]
    assert main(list(map(str, words))) == 0
    assert main(["index", "delete", str(out), "--ids", "p5"]) == 0
    said_ = " ".join(capsys.readouterr().err.split())
    assert "text and vectors of 1 deleted or replaced passages are on disk until" in said_
    assert main(["index", "compact", str(out)]) == 0
    said_ = " ".join(capsys.readouterr().err.split())
    assert "of 1 deleted or replaced ones are removed from the index and the cache" in said_
    assert "base.jsonl: your own file, not touched; it still holds text of deleted" in said_


def test_damage_is_named_and_exits_with_2(index, encoder, tmp_path, capsys):
    vectors = index / "embeddings.bin"
    content = bytearray(vectors.read_bytes())
    content[100] ^= 1
    vectors.write_bytes(content)
    found = said(capsys, "index", "verify", index, code=2)
    assert not found["sound"]
    assert found["problems"] == [f"{vectors}: altered: its checksum is not the manifest's"]
    vectors.write_bytes(content[:50])
    found = said(capsys, "index", "verify", index, code=2)
    assert f"{vectors}: truncated to 50 bytes from {len(content)}" in found["problems"]
    assert main(["index", "verify", str(index)]) == 2
    (index / "manifest.json").write_text("{")
    found = said(capsys, "index", "verify", index, code=2)
    assert "not valid JSON" in found["problems"][0]


def retrieved(capsys, *words) -> list[str]:
    return [one["id"] for one in said(capsys, *words)["examples"][0]["passages"]]


def test_an_index_is_of_the_step_of_its_encoder(passages, tiny, tmp_path, capsys):
    model = tmp_path / "model"
    shutil.copytree(tiny.drawn / "retriever", model / "retriever")
    (model / "run.json").write_text('{"step": 40}')
    build = ["index", "build", "--passages", passages, "--retriever", model / "retriever"]
    assert said(capsys, *build, "--out", tmp_path / "noted")["steps"] == {"40": 1.0}
    assert said(capsys, *build, "--out", tmp_path / "said", "--step", 7)["steps"] == {"7": 1.0}
    (model / "retriever" / "run.json").write_text('{"step": 41}')
    refresh = ["index", "refresh", tmp_path / "said", "--retriever", model / "retriever"]
    said(capsys, *refresh)
    assert said(capsys, "index", "info", tmp_path / "said")["steps"] == {"41": 1.0}


def test_filters_and_stacks(index, encoder, tmp_path, capsys):
    asked = write(tmp_path / "asked.jsonl", {"question": "number?"})
    words = ["retrieve", *encoder, "--data", asked, "--index", index]
    hr = retrieved(capsys, *words, "--topk", 4, "--where", 'source == "hr" and year >= 2005')
    assert set(hr) == {"p5", "p7", "p9", "p11"}
    message = complaint(capsys, *words, "--where", "yeer > 2")
    assert "no passage has a field 'yeer' (did you mean 'year'?)" in message
    assert "no passage has valid_from" in complaint(capsys, *words, "--as-of", "2019-06")
    newer = write(
        tmp_path / "newer.jsonl",
        {"id": "p1", "text": "changed", "source": "new"},
        {"id": "n1", "text": "new", "source": "new", "valid_from": "2019-06"},
    )
    delta = tmp_path / "delta.idx"
    build = ["index", "build", "--passages", newer, *encoder, "--out", delta]
    assert main(list(map(str, build))) == 0
    both = [*words, "--index", delta]
    assert sorted(retrieved(capsys, *both, "--topk", 13)) == sorted(
        [*(f"p{n}" for n in range(12)), "n1"]
    )
    assert retrieved(capsys, *both, "--topk", 2, "--where", 'source == "new"') != []
    assert "n1" not in retrieved(capsys, *both, "--topk", 12, "--as-of", "2019-05")
    stacked = tmp_path / "stacked.idx"
    info = said(capsys, "index", "stack", index, delta, "--out", stacked)
    assert (info["kind"], info["rows"], info["deleted"]) == ("stack", 14, 1)
    one = ["retrieve", *encoder, "--data", asked, "--index", stacked, "--topk", 13]
    assert retrieved(capsys, *one) == retrieved(capsys, *both, "--topk", 13)
    assert said(capsys, "index", "verify", stacked, *encoder)["sound"]
    assert main(["index", "info", str(stacked)]) == 0
    assert "is a stack of indexes" in complaint(capsys, "index", "delete", stacked, "--ids", "p1")


@pytest.mark.parametrize("kind", [["--kind", "int8"], ["--kind", "binary", "--keep-vectors"]])
def test_a_kind_of_codes_is_kept_up_to_date(kind, passages, encoder, tmp_path, capsys):
    out = tmp_path / "coded.idx"
    words = ["index", "build", "--passages", passages, *encoder, "--out", out, *kind]
    info = said(capsys, *words, "--recall-k", 3)
    assert info["recall"]["k"] == 3
    news = write(tmp_path / "news.jsonl", {"id": "n1", "text": "new"})
    assert main(list(map(str, ["index", "add", out, "--passages", news, *encoder]))) == 0
    assert main(["index", "delete", str(out), "--ids", "p2"]) == 0
    assert said(capsys, "index", "verify", out, *encoder)["sound"]
    if "--keep-vectors" not in kind:
        assert "keeps codes only" in complaint(capsys, "index", "compact", out)
    report = said(capsys, "index", "compact", out, *encoder)
    assert (report["live"], report["removed"]) == (12, 1)
    info = said(capsys, "index", "info", out)
    assert (info["kind"], info["passages"], info["parts"]) == (kind[1], 12, 0)
    assert said(capsys, "index", "verify", out, *encoder)["sound"]


def test_a_faiss_index_is_searched_more_widely_without_a_build(passages, encoder, tmp_path, capsys):
    pytest.importorskip("faiss")
    out = tmp_path / "lists.idx"
    kind = ["--kind", "faiss", "--factory", "IVF2,SQ8", "--keep-vectors", "--recall-k", 3]
    said(capsys, "index", "build", "--passages", passages, *encoder, "--out", out, *kind)
    tuned = said(capsys, "index", "tune", out, "--nprobe", 2)
    assert (tuned["nprobe"], tuned["recall"]["recall"]) == (2, 1.0)
    assert said(capsys, "index", "info", out)["settings"]["nprobe"] == 2
    assert main(["index", "tune", str(out), "--nprobe", "1"]) == 0
    assert "recall@3" in capsys.readouterr().err
    assert "has no effect" in complaint(capsys, "index", "tune", out, "--ef-search", 9)


def test_a_kind_is_chosen_for_the_memory(passages, encoder, tmp_path, capsys):
    words = ["index", "build", "--passages", passages, *encoder, "--out", tmp_path / "i.idx"]
    assert main(list(map(str, [*words, "--max-memory", "1GB"]))) == 0
    assert "flat, for it is exact" in " ".join(capsys.readouterr().err.split())
    message = complaint(capsys, *words, "--max-memory", "10b")
    assert "12 vectors of" in message
    message = complaint(capsys, *words, "--max-memory", "1GB", "--kind", "int8")
    assert "give --max-memory or --kind" in message
    message = complaint(capsys, *words, "--max-memory", "1GB", "--train-rows", 9)
    assert "give --max-memory or --train-rows" in message
    assert "set kind=milvus" in complaint(capsys, *words, "--url", "http://cluster")
    assert "'much' is no size of memory" in complaint(capsys, *words, "--max-memory", "much")


def test_help_shows_an_example(capsys):
    for verb in (
        "build",
        "stack",
        "add",
        "update",
        "delete",
        "compact",
        "tune",
        "refresh",
        "info",
        "verify",
    ):
        with pytest.raises(SystemExit) as stop:
            main(["index", verb, "--help"])
        assert stop.value.code == 0
        assert f"example:\n  atlas-lm index {verb}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["index", "verify", "wiki.idx", "--sample", "9"], "--sample 9 has no effect without"),
        (
            ["prepare", "passages", "notes", "--out", "c.jsonl", "--similarity", "0.9"],
            "--similarity 0.9 has no effect without --drop-duplicates near",
        ),
    ],
)
def test_an_option_without_effect_is_refused(words, message, capsys):
    assert message in complaint(capsys, *words)
