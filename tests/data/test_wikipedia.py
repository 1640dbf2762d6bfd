from __future__ import annotations

import gzip
import hashlib
import json
import tracemalloc

import pytest

from atlas_lm.data import wikipedia
from atlas_lm.data.wikipedia import WikipediaSettings, prepare_wikipedia
from atlas_lm.data.wikipedia_text import SKIPPED_SECTIONS, WikitextSettings
from atlas_lm.passages.store import PassageStore
from atlas_lm.runtime.errors import InputError
from tests.data.wikipedia_dump import PAGES, dump, page

pytest.importorskip("mwxml")
pytest.importorskip("mwparserfromhell")
ONE = WikipediaSettings(processes=1)


@pytest.fixture
def small(tmp_path):
    return str(dump(tmp_path / "enwiki-20240501-pages-articles-multistream.xml.bz2"))


def passages(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_dump_becomes_passages(tmp_path, small):
    out = tmp_path / "wiki.jsonl"
    manifest = prepare_wikipedia([small], out, ONE)
    ada, notes, legacy, box, company = passages(out)
    assert ada == {
        "id": "12-1",
        "title": "Ada Lovelace",
        "section": "",
        "text": "Augusta Ada King (10 December 1815 – 1852) was an English maths person. "
        "She walked 5 km.\nShe wrote notes on the Analytical Engine.",
        "wikipedia_id": "12",
        "revision": 1012,
    }
    assert (notes["section"], notes["text"]) == (
        "Works > Writings",
        "- Note A\n- deeper\n- numbered",
    )
    assert legacy["text"] == "A language, Ada (programming language), bears her name."
    assert (box["section"], box["text"]) == (
        "Infobox",
        "name: Ada Lovelace\nbirth date: 1815-12-10\nbirth place: London, England\n"
        "known for: Mathematics; The engine\nspouse: William King; (m. 1835)",
    )
    assert (company["title"], company["id"]) == ("AT&T <Inc>", "17-1")
    assert manifest["counts"] == {
        "pages": 8,
        "articles": 2,
        "passages": 5,
        "words": sum(len(row["text"].split()) for row in passages(out)),
        "redirects": 2,
        "disambiguations": 2,
        "other_namespaces": 1,
        "without_text": 1,
        "unread": 0,
    }
    assert manifest["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert json.loads((tmp_path / "wiki.jsonl.manifest.json").read_text()) == manifest


def test_the_store_reads_it_packed_too(tmp_path, small):
    prepare_wikipedia([small], tmp_path / "wiki.jsonl.gz", ONE)
    store = PassageStore.open(tmp_path / "wiki.jsonl.gz")
    assert store[1].heading == "Ada Lovelace: Works > Writings"
    assert store[0].metadata["wikipedia_id"] == "12"


@pytest.mark.slow
@pytest.mark.multiprocess
def test_several_processes_write_the_same(tmp_path, monkeypatch):
    pages = [page(n, f"Page {n}", f"Text {n}. " * (n % 50 + 1)) for n in range(1, 400)]
    path = str(dump(tmp_path / "wiki.xml.bz2", pages))
    monkeypatch.setattr(wikipedia, "BATCH_CHARS", 2_000)
    one = prepare_wikipedia([path], tmp_path / "one.jsonl", ONE)
    two = prepare_wikipedia([path], tmp_path / "two.jsonl", WikipediaSettings(processes=2))
    assert one["sha256"] == two["sha256"]
    assert one["counts"] == two["counts"]


def test_the_same_again_writes_nothing(tmp_path, small):
    out = tmp_path / "wiki.jsonl"
    prepare_wikipedia([small], out, ONE)
    before = out.stat().st_ino
    prepare_wikipedia([small], out, ONE)
    assert out.stat().st_ino == before
    prepare_wikipedia([small], out, WikipediaSettings(processes=1, words=50))
    assert out.stat().st_ino != before


def test_what_is_kept_can_be_chosen(tmp_path, small):
    kept = WikitextSettings(
        lists=False,
        infoboxes=False,
        tables=True,
        skipped_sections=SKIPPED_SECTIONS | {"legacy"},
    )
    settings = WikipediaSettings(processes=1, wikitext=kept)
    prepare_wikipedia([small], tmp_path / "wiki.jsonl", settings)
    rows = passages(tmp_path / "wiki.jsonl")
    assert [row["section"] for row in rows] == ["", "Works > Writings", ""]
    assert rows[1]["text"] == "Year | Work\n1843 | Notes"


def test_several_dumps_and_a_limit(tmp_path):
    first = dump(tmp_path / "p1.xml", PAGES[:3])
    second = dump(tmp_path / "p2.xml.bz2", PAGES[3:], streams=False)
    names = [str(first), str(second)]
    manifest = prepare_wikipedia(names, tmp_path / "all.jsonl", ONE)
    assert manifest["counts"]["articles"] == 2
    limited = WikipediaSettings(processes=1, limit=1)
    assert prepare_wikipedia(names, tmp_path / "one.jsonl", limited)["counts"]["articles"] == 1


@pytest.mark.parametrize("name", ["cut.xml", "cut.xml.bz2", "cut.xml.gz"])
def test_a_dump_cut_in_the_middle_is_said(tmp_path, name):
    pages = [
        page(n, f"Page {n}", f"{hashlib.sha512(b'%d' % n).hexdigest()} " * 9) for n in range(300)
    ]
    path = dump(tmp_path / name.removesuffix(".gz"), pages)
    if name.endswith(".gz"):
        path = tmp_path / name
        path.write_bytes(gzip.compress((tmp_path / "cut.xml").read_bytes()))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    out = tmp_path / "wiki.jsonl"
    out.write_text("as it was\n")
    told = rf"{name}: the dump ends or breaks after page \d+ \('Page \d+'\).*download it again"
    with pytest.raises(InputError, match=told):
        prepare_wikipedia([str(path)], out, ONE, force=True)
    assert out.read_text() == "as it was\n"


def test_a_stream_missing_at_the_end_is_said(tmp_path):
    path = dump(tmp_path / "cut.xml.bz2")
    whole, last = path.read_bytes(), path.read_bytes().rindex(b"BZh9")
    path.write_bytes(whole[:last])
    with pytest.raises(InputError, match=r"after page 8 \('Old redirect'\)"):
        prepare_wikipedia([str(path)], tmp_path / "wiki.jsonl", ONE)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"<html><body/></html>", "XML of <html>, not of <mediawiki>"),
        (b"no xml", "the dump ends or breaks at its start"),
        (b"BZh9 no bzip2", "the dump ends or breaks at its start"),
        (b"", "the dump ends or breaks at its start"),
    ],
)
def test_files_that_are_no_dump(tmp_path, content, told):
    path = tmp_path / "wiki.xml.bz2"
    path.write_bytes(content)
    with pytest.raises(InputError, match=told):
        prepare_wikipedia([str(path)], tmp_path / "wiki.jsonl", ONE)


def test_wrong_options(tmp_path, small):
    with pytest.raises(InputError, match="name such a file"):
        prepare_wikipedia([small], tmp_path / "wiki.txt", ONE)
    with pytest.raises(InputError, match="no such file"):
        prepare_wikipedia([str(tmp_path / "none.xml.bz2")], tmp_path / "wiki.jsonl", ONE)
    only = str(dump(tmp_path / "r.xml", PAGES[:1]))
    with pytest.raises(InputError, match="no article with text in 1 pages, 1 redirects"):
        prepare_wikipedia([only], tmp_path / "wiki.jsonl", ONE)
    for wrong in ({"words": 0}, {"limit": 0}, {"processes": -1}):
        with pytest.raises(InputError, match="give"):
            WikipediaSettings(**wrong)


def test_memory_does_not_grow_with_the_dump(tmp_path, monkeypatch):
    monkeypatch.setattr(wikipedia, "BATCH_CHARS", 20_000)
    peaks = []
    for count in (60, 400):
        path = str(
            dump(tmp_path / f"{count}.xml", [page(n, f"P{n}", "") for n in range(count)] + PAGES)
        )
        tracemalloc.start()
        prepare_wikipedia([path], tmp_path / "wiki.jsonl", ONE)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 50_000, peaks
