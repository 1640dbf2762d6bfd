"""Every snippet of the pages runs as it stands, one after the other, on the tiny world."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

from atlas_lm.index import build
from atlas_lm.model import Atlas, AtlasConfig
from atlas_lm.passages.store import PassageStore
from atlas_lm.retriever import BiEncoder
from atlas_lm.tasks import QATask, TaskConfig, with_wording
from atlas_lm.types import Generation
from tests.reader.causal_toys import toy_reader
from tests.tinyworld.world import draw

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/python.md", "docs/evaluation.md")


def snippets(page: str) -> list[str]:
    """Return the Python of a page: fenced, or indented and beginning with an import."""
    fenced = r"^```python\n((?:.*\n)*?)```"
    indented = r"^(    from atlas_lm .*\n(?:(?:    .*)?\n)+)"
    found = re.findall(f"{fenced}|{indented}", (ROOT / page).read_text("utf-8"), re.MULTILINE)
    return [textwrap.dedent(one or other) for one, other in found]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """What the pages name: a model of two towers, its index, passages, questions."""
    path = tmp_path_factory.mktemp("own-corpus")
    world = draw(path / "drawn")
    (path / "my.jsonl").write_bytes((world.world / "passages.jsonl").read_bytes())
    asked = (world.world / "test.jsonl").read_text().splitlines(keepends=True)
    (path / "test.jsonl").write_text("".join(asked[:4]))
    (path / "news-2026-11-24.jsonl").write_text('{"id": "news", "title": "n", "text": "home n"}\n')
    retriever = BiEncoder.from_pretrained(world.drawn / "retriever", tied=False)
    config = AtlasConfig(
        task=with_wording(TaskConfig(), QATask, "causal"), generation=Generation(max_new_tokens=4)
    )
    atlas = Atlas(retriever, toy_reader(), config)
    atlas.save_pretrained(path / "runs/mine/model")
    store = PassageStore.open(path / "my.jsonl")
    build(store, retriever.embed_corpus, path / "my.idx", fingerprint=atlas.fingerprint(store))
    return path


@pytest.mark.parametrize("page", PAGES)
def test_the_snippets_of_a_page_run(page, files, monkeypatch, capsys):
    monkeypatch.chdir(files)
    named: dict[str, object] = {}
    found = snippets(page)
    assert found
    for number, snippet in enumerate(found):
        exec(compile(snippet, f"{page}, snippet {number + 1}", "exec"), named)
    assert page == "docs/evaluation.md" or capsys.readouterr().out
