from __future__ import annotations

import json
import sys

import pytest

from atlas_lm.cli import main
from atlas_lm.passages.duplicates import duplicate_check
from atlas_lm.passages.prepare import ChunkSettings, prepare_passages
from atlas_lm.passages.store import PassageStore
from atlas_lm.runtime.errors import InputError


@pytest.fixture
def docs(tmp_path):
    top = tmp_path / "docs"
    (top / "sub").mkdir(parents=True)
    (top / ".git").mkdir()
    (top / ".git" / "config.txt").write_text("hidden")
    (top / "a.md").write_text("---\nid: x\nsource: hr\n---\n# A\n\nOne.\n\n## Part\n\nTwo.")
    (top / "sub" / "b.html").write_text("<p>Three.</p>")
    (top / "empty.txt").write_text("")
    (top / "image.png").write_bytes(b"\x89PNG\0")
    return top


def test_files_become_a_corpus(docs, tmp_path):
    out = tmp_path / "corpus.jsonl"
    counts = prepare_passages([docs], out)
    assert counts["passages"] == 3
    assert (counts["files"], counts["empty_files"]) == (3, 1)
    assert counts["skipped_files"] == {".png": 1}
    store = PassageStore.open(out)
    assert [(p.id, p.heading, p.text) for p in store] == [
        ("docs/a.md#1", "A", "One."),
        ("docs/a.md#2", "A: Part", "Two."),
        ("docs/sub/b.html#1", "b", "Three."),
    ]
    assert [p.metadata["source"] for p in store] == ["hr", "hr", "docs/sub/b.html"]


def test_the_command(docs, tmp_path, capsys):
    out = tmp_path / "corpus.jsonl"
    words = ["prepare", "passages", str(docs), "--out", str(out), "--drop-duplicates", "exact"]
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["passages"] == 3
    assert main(words) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "3 passages" in captured.err
    assert "1 .png" in captured.err
    assert main([*words, "--words", "0"]) == 2
    assert main([*words, "--overlap", "100"]) == 2


def test_wrong_input_changes_nothing(docs, tmp_path):
    out = tmp_path / "corpus.jsonl"
    out.write_text("before")
    cases = [
        ([docs / "image.png"], r"image\.png: a binary file"),
        ([docs / "empty.txt"], r"empty\.txt: no text in 1 files"),
        ([tmp_path / "none.md"], r"none\.md: no such file"),
        ([docs / ".git" / ".." / "sub", docs / "a.md", tmp_path / "other" / "a.md"], "ids of"),
    ]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.md").write_text("Else.")
    for paths, message in cases:
        with pytest.raises(InputError, match=message):
            prepare_passages(paths, out)
    assert out.read_text() == "before"
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match="no files ending in"):
        prepare_passages([tmp_path / "nothing"], out)
    with pytest.raises(InputError, match=r"ends in \.jsonl"):
        prepare_passages([docs], tmp_path / "out.txt")
    assert not list(tmp_path.glob(".*.tmp"))


TEXT = "The quick brown fox jumps over the lazy dog near the old stone bridge at dawn today. "


def write_duplicates(tmp_path):
    lines = [f"{TEXT * 1} number {n} of the kept ones" for n in range(1)]
    texts = {
        "1.txt": " ".join(f"word{n}" for n in range(60)),
        "2.txt": " ".join(f"Word{n}" for n in range(60)) + "!",
        "3.txt": " ".join(f"word{n}" for n in range(59)) + " changed",
        "4.txt": lines[0],
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    return [tmp_path / name for name in texts]


def test_exact_and_near_duplicates_are_dropped(tmp_path):
    files, out = write_duplicates(tmp_path), tmp_path / "o.jsonl"
    exact = prepare_passages(files, out, ChunkSettings(drop_duplicates="exact"))
    assert (exact["passages"], exact["exact_duplicates"]) == (3, 1)
    pytest.importorskip("datasketch")
    near = prepare_passages(files, out, ChunkSettings(drop_duplicates="near"))
    assert (near["passages"], near["exact_duplicates"], near["near_duplicates"]) == (2, 1, 1)
    assert [p.id for p in PassageStore.open(out)] == ["1.txt#1", "4.txt#1"]
    again = prepare_passages(files, out, ChunkSettings(drop_duplicates="near", similarity=1.0))
    assert again["near_duplicates"] == 0


def test_nearly_all_of_just_the_similarity_asked_for_are_dropped():
    pytest.importorskip("datasketch")
    found = 0
    for pair in range(60):
        first = [f"w{pair}x{place}" for place in range(101)]
        other = first.copy()
        for place in (20, 50, 80):
            other[place] += "y"
        check = duplicate_check("near")  # 90 of 108 shingles are shared: 0.83
        assert check(" ".join(first)) is None
        found += check(" ".join(other)) == "near"
    assert found >= 42  # the sketch's own error, 0.036, lets a fifth of them fall below 0.8


def test_near_without_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasketch", None)
    with pytest.raises(InputError, match=r"pip install 'atlas-lm\[prepare\]'"):
        prepare_passages(
            write_duplicates(tmp_path), tmp_path / "o.jsonl", ChunkSettings(drop_duplicates="near")
        )
