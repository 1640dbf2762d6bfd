from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from atlas_lm.index import FlatIndex, PassageFiles, open_index, read_manifest, storage
from atlas_lm.index.coded import Facts
from atlas_lm.index.directory import disk_full_explained, writing
from atlas_lm.index.int8 import Int8Index
from atlas_lm.index.parted import PartedIndex
from atlas_lm.index.settings import IndexSettings
from atlas_lm.index.vectors import encode_int8
from atlas_lm.passages.store import PassageStore
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.files import atomic_path
from tests.index.conftest import COUNT, DIM, make_fingerprint

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture
def index(vectors, fingerprint, store):
    return FlatIndex(vectors, fingerprint=fingerprint, step=7, passages=PassageFiles.of(store))


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def edit(directory: Path, **changes: object) -> None:
    path = directory / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mmap", [True, False])
def test_save_and_load(tmp_path, vectors, dtype, mmap):
    index = FlatIndex(vectors.to(dtype), fingerprint=make_fingerprint(), step=3)
    index.save(tmp_path / "a" / "index")
    again = FlatIndex.load(tmp_path / "a" / "index", mmap=mmap, verify=True)
    assert torch.equal(again.embeddings, index.embeddings)
    assert (again.dtype, again.dim, len(again), again.step) == (dtype, DIM, COUNT, 3)
    assert again.fingerprint == index.fingerprint
    query = torch.randn(4, DIM)
    assert torch.equal(again.search(query, 9).rows, index.search(query, 9).rows)


def test_vectors_go_to_a_device_without_a_copy_in_memory_first(tmp_path, index, monkeypatch):
    index.save(tmp_path / "index")
    monkeypatch.setattr(torch.Tensor, "clone", None)
    assert FlatIndex.load(tmp_path / "index", device="meta").device.type == "meta"


def test_manifest_says_what_is_there(tmp_path, index, fingerprint, corpus):
    index.save(tmp_path / "index")
    raw = (tmp_path / "index" / "embeddings.bin").read_bytes()
    manifest = read_manifest(tmp_path / "index")
    assert (manifest.kind, manifest.format_version, manifest.dtype) == ("flat", 2, "float32")
    assert (manifest.count, manifest.dim, manifest.step) == (COUNT, DIM, 7)
    assert manifest.embeddings_bytes == len(raw) == COUNT * DIM * 4
    assert manifest.embeddings_sha256 == hashlib.sha256(raw).hexdigest()
    assert manifest.fingerprint == fingerprint
    (file,) = manifest.passages.files
    assert (file.path, file.absolute) == ("../data/corpus.jsonl", str(corpus))
    assert file.bytes == corpus.stat().st_size
    assert file.sha256 == hashlib.sha256(corpus.read_bytes()).hexdigest()
    assert names(tmp_path / "index") == ["embeddings.bin", "manifest.json"]


def test_views_write_only_their_own_bytes(tmp_path):
    wide = torch.randn(COUNT, 3 * DIM)
    index = FlatIndex(wide[::2, DIM : 2 * DIM], fingerprint=make_fingerprint())
    index.save(tmp_path / "index")
    assert (tmp_path / "index" / "embeddings.bin").stat().st_size == COUNT // 2 * DIM * 4
    assert torch.equal(FlatIndex.load(tmp_path / "index").embeddings, wide[::2, DIM : 2 * DIM])


def test_vectors_are_written_in_pieces(tmp_path, index, monkeypatch):
    monkeypatch.setattr(storage, "WRITE_BYTES", 100)
    index.save(tmp_path / "index")
    assert torch.equal(FlatIndex.load(tmp_path / "index", verify=True).embeddings, index.embeddings)


def test_saving_again_leaves_nothing_stale(tmp_path, index, vectors):
    path = tmp_path / "index"
    for round_ in range(4):
        index.update_(slice(None), vectors + round_, step=round_)
        index.save(path, copy_passages=True)
        again = FlatIndex.load(path, verify=True)
        assert torch.equal(again.embeddings, vectors + round_)
        assert again.step == round_
        assert len(names(path)) == 3
    smaller = FlatIndex(vectors[:5], fingerprint=make_fingerprint())
    (path / ".embeddings.bin.abc.tmp").write_bytes(b"left by a kill")
    smaller.save(path)
    assert len(FlatIndex.load(path, verify=True)) == 5
    assert len(names(path)) == 2


def test_a_mapped_index_is_updated_in_memory_and_saved_in_place(tmp_path, index, vectors):
    path = tmp_path / "index"
    index.save(path)
    mapped = FlatIndex.load(path)
    mapped.update_([4], torch.zeros(1, DIM), step=8)
    assert torch.equal(FlatIndex.load(path).embeddings, vectors)
    mapped.save(path)
    again, store = open_index(path, verify=True)
    assert not again.embeddings[4].any()
    assert torch.equal(again.embeddings[5:], vectors[5:])
    assert (again.step, len(store)) == (7, COUNT)  # that of the oldest vector


@pytest.mark.parametrize("broken", ["write_manifest", "_write_tensor"])
def test_an_interrupted_save_leaves_the_old_index(tmp_path, index, vectors, monkeypatch, broken):
    path = tmp_path / "index"
    index.save(path)
    before = names(path)
    index.update_(slice(None), -vectors)

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(storage, broken, interrupt)
        with pytest.raises(KeyboardInterrupt):
            index.save(path)
    assert names(path) == before
    assert torch.equal(FlatIndex.load(path, verify=True).embeddings, vectors)


def test_disk_full_while_writing(tmp_path, index, vectors, monkeypatch):
    path = tmp_path / "index"

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_rows", full)
        with pytest.raises(InputError, match=r"index.*: the disk is full"):
            index.save(path)
    assert not path.exists()
    index.save(path)
    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_rows", full)
        with pytest.raises(InputError, match="the disk is full"):
            FlatIndex(-vectors, fingerprint=make_fingerprint()).save(path)
    assert torch.equal(FlatIndex.load(path, verify=True).embeddings, vectors)


def test_a_disk_found_full_by_a_file_within_is_still_one_of_the_index(tmp_path):
    with (
        pytest.raises(InputError, match=r"the index needs 0\.0 MB and .* are free; make room"),
        disk_full_explained(tmp_path, 8),
        atomic_path(tmp_path / "passages.jsonl"),
    ):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")


def test_disk_too_small_is_known_beforehand(tmp_path, index, monkeypatch):
    usage = namedtuple("usage", "total used free")(10, 5, 5)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(storage, "write_rows", None)
    with pytest.raises(InputError, match="make room or choose another directory"):
        index.save(tmp_path / "index")
    assert not (tmp_path / "index").exists()


def test_a_directory_of_something_else_is_not_touched(tmp_path, index):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match=r"notes: holds 'thesis\.tex', so it is no index"):
        index.save(tmp_path / "notes")
    with pytest.raises(InputError, match="is a file"):
        index.save(tmp_path / "notes" / "thesis.tex")
    assert names(tmp_path / "notes") == ["thesis.tex"]


@pytest.mark.parametrize("size", [0, COUNT * DIM * 4 - 1, COUNT * DIM * 4 + 4])
def test_truncated_vectors(tmp_path, index, size):
    index.save(tmp_path / "index")
    path = tmp_path / "index" / "embeddings.bin"
    path.write_bytes((path.read_bytes() + bytes(4))[:size])
    with pytest.raises(InputError, match=rf"embeddings\.bin: {size} bytes instead of 1600 bytes"):
        FlatIndex.load(tmp_path / "index")
    path.unlink()
    with pytest.raises(InputError, match=r"embeddings\.bin: missing instead of 1600 bytes"):
        FlatIndex.load(tmp_path / "index")


def test_altered_vectors_are_found_on_request(tmp_path, index):
    index.save(tmp_path / "index")
    path = tmp_path / "index" / "embeddings.bin"
    path.write_bytes(bytes(4) + path.read_bytes()[4:])
    FlatIndex.load(tmp_path / "index")
    with pytest.raises(InputError, match="checksum differs"):
        FlatIndex.load(tmp_path / "index", verify=True)


def test_damaged_manifest(tmp_path, index):
    path = tmp_path / "index"
    with pytest.raises(InputError, match="index: no such directory"):
        FlatIndex.load(path)
    index.save(path)
    for content, message in [
        ("", "not valid JSON"),
        ("[]", "not a list; expected the manifest of an index"),
        ("{}", "not the manifest of an index"),
        ('{"format_version": 1', "not valid JSON"),
    ]:
        (path / "manifest.json").write_text(content)
        with pytest.raises(InputError, match=message):
            FlatIndex.load(path)
    (path / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"manifest\.json: no such file.*cut short"):
        FlatIndex.load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 3}, "format_version 3, but this atlas-lm reads up to 2; upgrade"),
        ({"kind": "pq"}, "of kind 'pq', not 'flat'"),
        ({"dtype": "int4"}, r"50 x 8 vectors in int4 are not 1600 bytes"),
        ({"count": 49}, r"49 x 8 vectors in float32 are not 1600 bytes"),
        ({"count": "50"}, "count is '50', not int"),
        ({"fingerprint": {"encoder": "x"}}, "not the manifest"),
        ({"surprise": 1}, "not the manifest"),
    ],
)
def test_manifest_that_cannot_be_used(tmp_path, index, changes, message):
    index.save(tmp_path / "index")
    edit(tmp_path / "index", **changes)
    with pytest.raises(InputError, match=message):
        FlatIndex.load(tmp_path / "index")


def test_fingerprints_are_held_against_each_other():
    ours = make_fingerprint(encoder="aaa")
    ours.check(make_fingerprint(encoder="aaa"))
    with pytest.raises(
        InputError, match=r"built with encoder='aaa', but encoder='bbb' is in use; rebuild it with"
    ):
        ours.check(make_fingerprint(encoder="bbb"))
    ours.check(make_fingerprint(encoder="bbb"), ignore={"encoder"})
    with pytest.raises(InputError, match=r"dim=8, but dim=4.* or open it with the retriever"):
        ours.check(make_fingerprint(encoder="bbb", dim=4), ignore={"encoder"})
    with pytest.raises(InputError, match=r"corpus='corpus'.* or open it with the passage files"):
        ours.check(make_fingerprint(encoder="aaa", corpus="other"))


def test_open_with_passages_beside_it_and_moved_together(tmp_path, index):
    index.save(tmp_path / "index")
    _, store = open_index(tmp_path / "index")
    assert store[3].id == "p3"
    (tmp_path / "moved").mkdir()
    (tmp_path / "index").rename(tmp_path / "moved" / "index")
    assert open_index(tmp_path / "moved" / "index")[1][3].id == "p3"  # by the absolute path
    (tmp_path / "data").rename(tmp_path / "moved" / "data")
    opened, store = open_index(tmp_path / "moved" / "index")  # by the relative path
    assert store[3].id == "p3"
    opened.save(tmp_path / "elsewhere")
    assert open_index(tmp_path / "elsewhere")[1][3].id == "p3"


def test_open_with_a_copy_of_the_passages(tmp_path, index, corpus):
    index.save(tmp_path / "index", copy_passages=True)
    corpus.unlink()
    (tmp_path / "index").rename(tmp_path / "moved")
    opened, store = open_index(tmp_path / "moved")
    assert store.rows_of(["p9"]) == [9]
    assert store.paths[0].parent == tmp_path / "moved"
    opened.save(tmp_path / "moved")
    assert len(names(tmp_path / "moved")) == 3
    opened.save(tmp_path / "second")
    shutil.rmtree(tmp_path / "moved")
    assert open_index(tmp_path / "second")[1][9].id == "p9"


def test_copy_keeps_several_files(tmp_path, corpus, vectors):
    lines = corpus.read_bytes().splitlines(keepends=True)
    parts = [tmp_path / "1.jsonl", tmp_path / "2.jsonl"]
    parts[0].write_bytes(b"".join(lines[:20])[:-1])
    parts[1].write_bytes(b"".join(lines[20:]))
    store = PassageStore.open(parts)
    fingerprint = make_fingerprint(corpus=store.fingerprint)
    index = FlatIndex(vectors, fingerprint=fingerprint, passages=PassageFiles.of(store))
    index.save(tmp_path / "index", copy_passages=True)
    copies = [tmp_path / "index" / f"passages-000{number}.jsonl" for number in (1, 2)]
    assert b"".join(copy.read_bytes() for copy in copies) == corpus.read_bytes()
    assert len(open_index(tmp_path / "index")[1]) == COUNT


def test_passages_that_are_gone_or_others(tmp_path, index, corpus):
    index.save(tmp_path / "index")
    with corpus.open("a") as file:
        file.write('{"id": "new", "text": "one more"}\n')
    with pytest.raises(InputError, match=r"built from 50 passages .*holds 51 others .*rebuild"):
        open_index(tmp_path / "index")
    with pytest.raises(InputError, match="changed since the index was built"):
        index.save(tmp_path / "index", copy_passages=True)
    moved = corpus.rename(tmp_path / "other.jsonl")
    with pytest.raises(InputError, match=r"its passages are missing.*name its new place"):
        open_index(tmp_path / "index")
    moved.write_bytes(b"".join(moved.read_bytes().splitlines(keepends=True)[:COUNT]))
    assert len(open_index(tmp_path / "index", passages=[moved])[1]) == COUNT


def test_index_without_passages(tmp_path, vectors, corpus, fingerprint):
    FlatIndex(vectors, fingerprint=fingerprint).save(tmp_path / "index")
    with pytest.raises(InputError, match="saved without its passages"):
        open_index(tmp_path / "index")
    assert len(open_index(tmp_path / "index", passages=[corpus])[1]) == COUNT


@pytest.mark.parametrize("kind", ["flat", "parts", "int8"])
def test_saving_claims_the_directory(tmp_path, index, kind):
    if kind == "parts":
        index = PartedIndex([index], [3])
    if kind == "int8":
        facts = Facts(
            count=COUNT, settings=IndexSettings(kind="int8"), fingerprint=index.fingerprint
        )
        index = Int8Index(facts, encode_int8(index.embeddings), None)
    with writing(tmp_path / "index"), pytest.raises(InputError, match="is writing this index"):
        index.save(tmp_path / "index")
    assert not (tmp_path / "index").exists()
    index.save(tmp_path / "index")
