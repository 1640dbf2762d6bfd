from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from atlas_lm.index import (
    IndexSettings,
    PartedIndex,
    add,
    compact,
    delete,
    directory,
    open_index,
    read_manifest,
    refresh,
    update,
)
from atlas_lm.index import add as add_function
from atlas_lm.index.member import Window
from atlas_lm.index.sharded import ShardedIndex
from atlas_lm.passages.store import PassageStore
from atlas_lm.runtime.errors import InputError
from tests.index.conftest import DIM, make_fingerprint
from tests.index.keeping import ENCODER, built, embed, expected, found, vector, write

BASE = {f"p{row}": f"base text {row}" for row in range(30)}
MORE = {f"q{row}": f"more text {row}" for row in range(7)}
QUERY = torch.randn(4, DIM, generator=torch.Generator().manual_seed(3))


@pytest.fixture(params=[False, True], ids=["references", "copies"])
def copies(request):
    return request.param


@pytest.fixture
def base(tmp_path, copies):
    return built(tmp_path / "index", [write(tmp_path / "base.jsonl", BASE)], copy_passages=copies)


@pytest.fixture
def more(tmp_path):
    return write(tmp_path / "more.jsonl", MORE)


def holds(path: Path, texts: dict[str, str]) -> None:
    assert found(path, QUERY, len(texts)) == expected(texts, QUERY)
    with pytest.raises(InputError, match=f"topk={len(texts) + 1}"):
        found(path, QUERY, len(texts) + 1)
    _, store = open_index(path, verify=True)
    assert all(store[row].id == i for i, row in zip(texts, store.rows_of(texts), strict=True))


def test_added_passages_are_found_at_once(base, more):
    change = add(base, more, embed, fingerprint=ENCODER)
    assert (change.added, change.live, change.dead, change.parts) == (7, 37, 0, 1)
    holds(base, BASE | MORE)
    manifest = read_manifest(base)
    assert (manifest.count, manifest.part_rows, manifest.rows, manifest.live) == (30, (7,), 37, 37)


def test_updated_passages_take_the_place_of_the_old(base, tmp_path):
    new = {"p3": "a new text", "p9": "another", "r1": "one more"}
    change = update(base, write(tmp_path / "new.jsonl", new), embed, fingerprint=ENCODER)
    assert (change.added, change.replaced, change.live, change.dead) == (3, 2, 31, 2)
    holds(base, BASE | new)


def test_deleted_passages_are_found_no_more(base):
    change = delete(base, ["p3", "p29", "p3"])
    assert (change.deleted, change.live, change.dead) == (2, 28, 2)
    holds(base, {i: t for i, t in BASE.items() if i not in ("p3", "p29")})
    _, store = open_index(base)
    with pytest.raises(InputError, match="passage id 'p3' is not in"):
        store.rows_of(["p3"])


def test_a_long_life(base, tmp_path, more):
    texts = dict(BASE)
    add(base, more, embed, fingerprint=ENCODER)
    texts |= MORE
    delete(base, ["p0", "q2"])
    del texts["p0"], texts["q2"]
    for round_ in range(3):
        new = {"p5": f"p5 of round {round_}", f"s{round_}": f"new {round_}", "p0": f"back {round_}"}
        update(base, write(tmp_path / f"r{round_}.jsonl", new), embed, fingerprint=ENCODER)
        texts = {i: t for i, t in texts.items() if i not in new} | new
        holds(base, texts)
    assert len(read_manifest(base).parts) == 4
    report = compact(base)
    assert (report.live, report.removed, report.parts) == (len(texts), 7, 4)
    assert report.bytes_after < report.bytes_before
    holds(base, texts)
    manifest = read_manifest(base)
    assert (manifest.count, manifest.parts, manifest.deleted) == (len(texts), (), 0)
    names = {path.name.replace(".1", "") for path in base.iterdir()}
    assert names == {"manifest.json", "embeddings.bin", "passages.jsonl"}
    add(base, write(tmp_path / "last.jsonl", {"z": "last"}), embed, fingerprint=ENCODER)
    holds(base, texts | {"z": "last"})
    assert compact(base).parts == 1
    holds(base, texts | {"z": "last"})


def test_refresh_embeds_live_passages_with_another_encoder_and_merges(base, more):
    add(base, more, embed, fingerprint=ENCODER)
    delete(base, ["p1"])
    live = [f"p{row}" for row in range(30) if row != 1] + list(MORE)
    other = make_fingerprint(encoder="e2")
    report = refresh(base, lambda passages: -embed(passages), fingerprint=other, step=7)
    assert (report.live, report.parts) == (len(live), 1)
    manifest = read_manifest(base)
    assert (manifest.fingerprint.encoder, manifest.step, manifest.parts) == ("e2", 7, ())
    index, store = open_index(base, verify=True)
    passages = store.passages(range(len(store)))
    assert [passage.id for passage in passages] == live
    assert torch.equal(index.embeddings, -embed(passages))


def test_refresh_goes_on_after_an_interruption(base, monkeypatch):
    monkeypatch.setattr(sys.modules[refresh.__module__], "PASSAGES_AT_A_TIME", 4)
    seen = []

    def stops(passages):
        if len(seen) == 8:
            raise KeyboardInterrupt
        seen.extend(passage.id for passage in passages)
        return -embed(passages)

    other = make_fingerprint(encoder="e2")
    with pytest.raises(KeyboardInterrupt):
        refresh(base, stops, fingerprint=other)
    assert read_manifest(base).fingerprint.encoder == ENCODER.encoder
    rest = []
    refresh(base, lambda p: rest.extend(one.id for one in p) or -embed(p), fingerprint=other)
    assert seen + rest == list(BASE)
    assert read_manifest(base).fingerprint.encoder == "e2"


def test_compaction_leaves_neither_text_nor_vector(base, tmp_path, more, copies, cache):
    add(base, more, embed, fingerprint=ENCODER, copy_passages=True)
    delete(base, ["p7", "q3"])
    gone = [BASE["p7"], MORE["q3"]]
    (base / "part-0002.partial").mkdir()
    (base / "part-0002.partial" / "embeddings.bin").write_bytes(vector(gone[0]).numpy().tobytes())
    report = compact(base)
    assert report.still_in == (() if copies else (tmp_path / "base.jsonl",))
    for file in [*base.rglob("*"), *cache.rglob("*")]:
        if file.is_file():
            content = file.read_bytes()
            for text in gone:
                assert f'"{text}"'.encode() not in content, file
                assert vector(text).numpy().tobytes() not in content, file
    (tmp_path / "base.jsonl").unlink()
    more.unlink()
    holds(base, {i: t for i, t in (BASE | MORE).items() if t not in gone})


def test_compaction_forgets_the_unpacked_copy_of_a_packed_file(tmp_path, cache):
    import gzip

    plain = write(tmp_path / "base.jsonl", BASE)
    packed = tmp_path / "base.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    index = built(tmp_path / "index", [packed])
    delete(index, ["p7"])
    assert compact(index).still_in == (packed,)
    left = [*cache.rglob("*"), *index.rglob("*")]
    assert not any(b'"base text 7"' in file.read_bytes() for file in left if file.is_file())
    holds(index, {i: t for i, t in BASE.items() if i != "p7"})


def test_compaction_without_deletions_keeps_the_users_files(tmp_path, more):
    index = built(tmp_path / "index", [write(tmp_path / "base.jsonl", BASE)])
    add(index, more, embed, fingerprint=ENCODER)
    compact(index)
    manifest = read_manifest(index)
    assert manifest.passages is not None
    assert [file.path for file in manifest.passages.files] == ["../base.jsonl", "../more.jsonl"]
    holds(index, BASE | MORE)
    before = (index / "manifest.json").read_bytes()
    assert compact(index).removed == 0
    assert (index / "manifest.json").read_bytes() == before


def test_an_id_that_is_there_is_refused(base, tmp_path):
    new = write(tmp_path / "new.jsonl", {"x": "new", "p4": "again"})
    with pytest.raises(InputError, match=r"id 'p4' is in the index already .*:5\).*index update"):
        add(base, new, embed, fingerprint=ENCODER)
    holds(base, BASE)
    twice = tmp_path / "twice.jsonl"
    twice.write_text('{"id": "x", "text": "1"}\n{"id": "x", "text": "2"}\n')
    with pytest.raises(InputError, match=r"twice\.jsonl:2: id 'x' was used before"):
        update(base, twice, embed, fingerprint=ENCODER)


def test_wrong_input(base, more, tmp_path):
    with pytest.raises(InputError, match="passage id 'nobody' is not in"):
        delete(base, ["p1", "nobody"])
    with pytest.raises(InputError, match="this would delete all 30 passages"):
        delete(base, BASE)
    with pytest.raises(InputError, match="built with encoder='e1', but encoder='e2' is in use"):
        add(base, more, embed, fingerprint=make_fingerprint(encoder="e2"))
    with pytest.raises(InputError, match="no such directory"):
        delete(tmp_path / "nowhere", ["p1"])
    with pytest.raises(InputError, match="embedding of row 0 is not finite"):
        add(base, more, lambda p: embed(p) * torch.nan, fingerprint=ENCODER)
    holds(base, BASE)


def test_a_second_writer_is_refused(base, more):
    def busy(passages):
        with pytest.raises(InputError, match="another process is writing this index"):
            delete(base, ["p1"])
        holds(base, BASE)
        return embed(passages)

    add(base, more, busy, fingerprint=ENCODER)
    holds(base, BASE | MORE)
    assert not list(base.parent.glob("*.writing"))


def test_an_interrupted_addition_goes_on(base, more, tmp_path, capsys):
    calls: list[int] = []

    def stops(passages):
        calls.append(len(passages))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return embed(passages)

    args = {"fingerprint": ENCODER, "passages_at_a_time": 2}
    with pytest.raises(KeyboardInterrupt):
        add(base, more, stops, **args)
    holds(base, BASE)
    add(base, more, stops, **args)
    assert sum(calls[3:]) == 3
    holds(base, BASE | MORE)


def test_a_full_disk_changes_nothing(base, more, monkeypatch):
    keep = sys.modules[add_function.__module__]

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("write_arrays", "rewrite_manifest"):
        with monkeypatch.context() as patch:
            patch.setattr(keep, name, full)
            with pytest.raises(InputError, match="the disk is full"):
                delete(base, ["p1"])
        holds(base, BASE)
    compacting = sys.modules[compact.__module__]
    delete(base, ["p1"])
    rest = {i: t for i, t in BASE.items() if i != "p1"}
    with monkeypatch.context() as patch:
        patch.setattr(compacting, "_append_live", full)
        with pytest.raises(InputError, match="the disk is full"):
            compact(base)
    holds(base, rest)
    compact(base)
    holds(base, rest)


def test_what_was_opened_stays_readable(base, more):
    index, store = open_index(base)
    delete(base, ["p3"])
    add(base, more, embed, fingerprint=ENCODER)
    compact(base)
    rows = index.search(QUERY, 30).rows
    before = [[(p.id, p.text) for p in store.passages(one)] for one in rows.tolist()]
    assert before == expected(BASE, QUERY)


def _write_for_a_while(path: str, more: str) -> None:
    for _ in range(6):
        add(path, more, embed, fingerprint=ENCODER)
        delete(path, MORE)
        compact(path)


@pytest.mark.slow
def test_readers_see_one_state_or_the_other(base, more):
    writer = multiprocessing.get_context("spawn").Process(
        target=_write_for_a_while, args=(str(base), str(more))
    )
    writer.start()
    seen = 0
    try:
        while writer.is_alive():
            index, store = open_index(base)
            live = index.live if isinstance(index, PartedIndex) else len(index)
            assert live in (30, 37)
            rows = index.search(QUERY, live).rows
            answer = [[(p.id, p.text) for p in store.passages(one)] for one in rows.tolist()]
            assert answer == expected(BASE if live == 30 else BASE | MORE, QUERY)
            store.close()
            seen += 1
            time.sleep(0.001)
    finally:
        writer.join()
    assert writer.exitcode == 0
    assert seen > 5


def test_a_parted_index_has_the_steps_of_its_parts_and_is_saved_and_cut(base, more, tmp_path):
    add(base, more, embed, fingerprint=ENCODER)
    delete(base, ["p2"])
    index, store = open_index(base)
    assert isinstance(index, PartedIndex)
    assert len(index) == 37
    first, added = index.parts
    first.update_(slice(None), -first.embeddings, step=5)
    first.update_([1], torch.ones(1, DIM), step=9)
    added.update_(slice(None), -added.embeddings, step=5)
    added.update_([3], torch.ones(1, DIM), step=9)
    assert index.step == 5
    assert index.row_steps is not None
    assert index.row_steps.tolist() == [9 if row in (1, 33) else 5 for row in range(37)]
    fresh = index.embeddings
    assert torch.equal(fresh, torch.cat([first.embeddings, added.embeddings]))
    index.save(tmp_path / "saved")
    again, _ = open_index(tmp_path / "saved", verify=True)
    assert torch.equal(again.search(QUERY, 36).rows, index.search(QUERY, 36).rows)
    pieces = [index.share(range(0, 20)), index.share(range(20, 37))]
    assert [piece.live for piece in pieces] == [19, 17]
    assert torch.equal(torch.cat([piece.embeddings for piece in pieces]), fresh)
    assert store.hidden is not None
    assert np.array_equal(store.hidden, [2])


def test_a_parted_index_says_how_it_is_searched(base, more):
    add(base, more, embed, fingerprint=ENCODER)
    index, _ = open_index(base)
    assert index.way(4) == f"37 rows: {index.parts[0].way(4)}"
    assert ShardedIndex(index).way(4) == f"rows 0 to 37 of 37: {index.way(4)}"
    other = PartedIndex([index.parts[0], Window(index.parts[1], range(2))])
    other.parts[1].way = lambda bsz: f"{bsz} by another"
    assert other.way(1) == f"30 rows: {index.parts[0].way(1)}; 2 rows: 1 by another"


def test_searches_leave_out_excluded_and_filtered_rows(base, more):
    add(base, more, embed, fingerprint=ENCODER)
    delete(base, ["p2"])
    index, _ = open_index(base)
    allowed = torch.zeros(37, dtype=torch.bool)
    allowed[[1, 2, 5, 31, 36]] = True
    result = index.search(QUERY, 3, [[1, 2], [31], [], [5]], allowed_rows=allowed)
    left = [{5, 31, 36}, {1, 5, 36}, {1, 5, 31, 36}, {1, 31, 36}]
    for rows, may in zip(result.rows.tolist(), left, strict=True):
        assert set(rows) <= may
    full = index.search(QUERY, 36)
    for query, rows in enumerate(result.rows.tolist()):
        order = [row for row in full.rows[query].tolist() if row in left[query]]
        assert rows == order[:3]
    with pytest.raises(InputError, match="query 0 may only get 3 passages"):
        index.search(QUERY, 4, [[1, 2], [], [], []], allowed_rows=allowed)


def test_a_store_with_hidden_rows_is_built_with_them(base, tmp_path):
    delete(base, ["p3"])
    _, store = open_index(base)
    fingerprint = make_fingerprint(corpus=store.fingerprint)
    from atlas_lm.index import build

    build(store, embed, tmp_path / "again", fingerprint=fingerprint, dtype=torch.float32)
    holds(tmp_path / "again", {i: t for i, t in BASE.items() if i != "p3"})


def test_names_of_something_else_are_not_ours():
    for name in ("model.safetensors", "notes.txt", "part-1", "codes.bin", "weights.array.bak"):
        assert not directory.OURS.fullmatch(name)
    for name in ("part-0001", "part-0012.partial", "codes.array", ".codes.1.array.x8.tmp"):
        assert directory.OURS.fullmatch(name)


def test_one_store_of_all_files(base, more):
    add(base, more, embed, fingerprint=ENCODER)
    index, store = open_index(base)
    assert index.fingerprint.corpus == store.fingerprint
    assert len(store) == 37
    assert isinstance(store, PassageStore)


def test_a_directory_of_version_1_is_opened_and_kept_up_to_date(tmp_path, more):
    files = [
        write(tmp_path / "1.jsonl", dict(list(BASE.items())[:12])),
        write(tmp_path / "2.jsonl", dict(list(BASE.items())[12:])),
    ]
    index = built(tmp_path / "index", files)
    path = index / "manifest.json"
    manifest = json.loads(path.read_text())
    for name in ("settings", "arrays", "recall", "parts", "part_rows", "deleted", "updated"):
        del manifest[name]
    whole = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    manifest["format_version"], manifest["fingerprint"]["corpus"] = 1, whole
    path.write_text(json.dumps(manifest))
    holds(index, BASE)
    add(index, more, embed, fingerprint=ENCODER)
    delete(index, ["p1"])
    holds(index, {i: t for i, t in (BASE | MORE).items() if i != "p1"})
    compact(index)
    holds(index, {i: t for i, t in (BASE | MORE).items() if i != "p1"})


def test_rows_of_codes_are_searched_under_a_mask(tmp_path, more):
    settings = IndexSettings(kind="int8", dtype="float32", recall_queries=0)
    base = built(tmp_path / "i", [write(tmp_path / "base.jsonl", BASE)], settings=settings)
    add(base, more, embed, fingerprint=ENCODER)
    delete(base, ["p2"])
    index, _ = open_index(base)
    assert isinstance(index, PartedIndex)
    full = index.search(QUERY, 36)
    pieces = [index.share(range(0, 20)), index.share(range(20, 37))]
    assert [len(piece) for piece in pieces] == [20, 17]
    for piece, first, count in zip(pieces, (0, 20), (19, 17), strict=True):
        found = piece.search(QUERY, count)
        for query, rows in enumerate(found.rows.tolist()):
            mine = [row for row in full.rows[query].tolist() if first <= row < first + len(piece)]
            assert [row + first for row in rows] == mine
    one = pieces[1].search(QUERY, 16, [[0], [1], [15], []]).rows
    for query, excluded in enumerate([0, 1, 15]):
        assert excluded not in one[query].tolist()


@pytest.mark.filterwarnings("ignore")
def test_compaction_of_a_database_leaves_one_collection(tmp_path, more):
    pymilvus = pytest.importorskip("pymilvus")
    pytest.importorskip("milvus_lite")
    settings = IndexSettings(kind="milvus", dtype="float32", recall_queries=0)
    base = built(tmp_path / "i", [write(tmp_path / "base.jsonl", BASE)], settings=settings)
    add(base, more, embed, fingerprint=ENCODER)
    delete(base, ["p2", "q1"])
    with pytest.raises(InputError, match="keeps codes only"):
        compact(base)
    report = compact(base, embed=embed, fingerprint=ENCODER)
    assert (report.live, report.removed) == (35, 2)
    texts = {i: t for i, t in (BASE | MORE).items() if i not in ("p2", "q1")}
    assert found(base, QUERY, 35) == expected(texts, QUERY)
    client = pymilvus.MilvusClient(str((base / "milvus.db").resolve()))
    assert client.list_collections() == [read_manifest(base).settings["collection"]]
    client.close()


@pytest.mark.parametrize("stacked", [False, True])
def test_an_opening_that_a_compaction_overtakes_starts_over(base, more, tmp_path, stacked):
    paths = [base]
    if stacked:
        paths.append(built(tmp_path / "delta", [write(tmp_path / "delta.jsonl", {"z": "delta"})]))
    add(base, more, embed, fingerprint=ENCODER)
    delete(base, ["p2"])
    opening = sys.modules[open_index.__module__]
    calls = []
    really = opening.refuse_changed if not stacked else opening._stack

    def overtaken(*args, **kwargs):
        calls.append(args)
        if len(calls) == 1:
            delete(base, ["p3"])
            compact(base)
        return really(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opening, really.__name__, overtaken)
        _, store = open_index(paths)
    assert len(calls) >= 2
    gone = ("p2", "p3")
    texts = {i: t for i, t in (BASE | MORE).items() if i not in gone} | (
        {"z": "delta"} if stacked else {}
    )
    rows = store.rows_of(texts)
    assert [passage.text for passage in store.passages(rows)] == list(texts.values())
    assert store.rows_of(gone, missing="skip") == []
