from __future__ import annotations

import dataclasses
import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from atlas_lm.index import FlatIndex, IndexSettings, build, open_index
from atlas_lm.index import build as build_function
from atlas_lm.runtime.errors import InputError
from tests.index.conftest import COUNT, DIM, make_fingerprint

build_module = sys.modules[build_function.__module__]


def content(directory: Path) -> bytes:
    return (directory / "embeddings.bin").read_bytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("at_a_time", [6, 50, 999])
def test_build_is_the_vectors_in_row_order(
    tmp_path, store, embed, vectors, fingerprint, dtype, at_a_time
):
    out = tmp_path / "index"
    index = build(
        store,
        embed,
        out,
        fingerprint=fingerprint,
        dtype=dtype,
        step=4,
        passages_at_a_time=at_a_time,
    )
    assert torch.equal(index.embeddings, vectors.to(dtype))
    opened, passages = open_index(out, verify=True)
    assert (opened.step, opened.fingerprint, len(passages)) == (4, fingerprint, COUNT)
    assert sorted(path.name for path in tmp_path.iterdir() if "index" in path.name) == ["index"]


class Interrupted:
    """Embeds until the given call, then raises."""

    def __init__(self, embed, stop_at: int, error: BaseException) -> None:
        self.embed, self.stop_at, self.error = embed, stop_at, error
        self.seen: list[str] = []
        self.calls = 0

    def __call__(self, passages):
        self.calls += 1
        if self.calls == self.stop_at:
            raise self.error
        self.seen += [passage.id for passage in passages]
        return self.embed(passages)


def test_build_goes_on_after_an_interruption(tmp_path, store, embed, fingerprint, capsys):
    args = {"fingerprint": fingerprint, "passages_at_a_time": 8}
    build(store, embed, tmp_path / "straight", **args)
    first = Interrupted(embed, 3, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        build(store, first, tmp_path / "index", **args)
    assert not (tmp_path / "index").exists()
    second = Interrupted(embed, 99, KeyboardInterrupt())
    build(store, second, tmp_path / "index", **args)
    assert first.seen + second.seen == [f"p{row}" for row in range(COUNT)]
    assert content(tmp_path / "index") == content(tmp_path / "straight")
    assert "going on after 16 passages" in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "index.partial").exists()


def test_bytes_after_the_last_state_are_dropped(tmp_path, store, embed, vectors, fingerprint):
    args = {"fingerprint": fingerprint, "passages_at_a_time": 8, "dtype": torch.float32}
    with pytest.raises(KeyboardInterrupt):
        build(store, Interrupted(embed, 3, KeyboardInterrupt()), tmp_path / "index", **args)
    with open(tmp_path / "index.partial" / "embeddings.bin", "ab") as file:
        file.write(b"\xff" * 37)
    build(store, embed, tmp_path / "index", **args)
    assert torch.equal(FlatIndex.load(tmp_path / "index").embeddings, vectors)


@pytest.mark.parametrize("change", ["encoder", "dtype", "step", "state", "vectors"])
def test_an_unfinished_build_of_other_vectors_is_dropped(
    tmp_path, store, embed, vectors, fingerprint, capsys, change
):
    args = {"fingerprint": fingerprint, "passages_at_a_time": 8, "dtype": torch.float32, "step": 0}
    with pytest.raises(KeyboardInterrupt):
        build(store, Interrupted(embed, 3, KeyboardInterrupt()), tmp_path / "index", **args)
    partial = tmp_path / "index.partial"
    if change == "encoder":
        args["fingerprint"] = dataclasses.replace(fingerprint, encoder="e2")
    elif change == "dtype":
        args["dtype"] = torch.bfloat16
    elif change == "step":
        args["step"] = 1
    elif change == "state":
        (partial / "state.json").write_text("{")
    else:
        os.truncate(partial / "embeddings.bin", 100)
    again = Interrupted(lambda passages: -embed(passages), 99, KeyboardInterrupt())
    index = build(store, again, tmp_path / "index", **args)
    assert len(again.seen) == COUNT
    assert torch.equal(index.embeddings, -vectors.to(args["dtype"]))
    assert "starting anew" in capsys.readouterr().err.replace("\n", " ")


def test_an_index_stays_until_its_successor_is_complete(
    tmp_path, store, embed, vectors, fingerprint, monkeypatch
):
    out = tmp_path / "index"
    build(store, embed, out, fingerprint=fingerprint, dtype=torch.float32)
    newer = {
        "fingerprint": dataclasses.replace(fingerprint, encoder="e2"),
        "dtype": torch.float32,
        "copy_passages": True,
    }

    def negative(passages):
        return -embed(passages)

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(build_module, "finish", interrupt)
        with pytest.raises(KeyboardInterrupt):
            build(store, negative, out, **newer)
    assert torch.equal(FlatIndex.load(out, verify=True).embeddings, vectors)
    no_more = Interrupted(negative, 1, AssertionError("everything was embedded already"))
    index = build(store, no_more, out, **newer)
    assert torch.equal(index.embeddings, -vectors)
    assert open_index(out, verify=True)[0].fingerprint.encoder == "e2"
    assert len(list(out.iterdir())) == 3


def test_disk_full_keeps_the_work(tmp_path, store, embed, vectors, fingerprint, monkeypatch):
    writes = 0
    write_rows = build_module.write_rows

    def full(file, rows):
        nonlocal writes
        writes += 1
        if writes == 4:
            file.write(b"\0" * 5)
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_rows(file, rows)

    args = {"fingerprint": fingerprint, "dtype": torch.float32, "passages_at_a_time": 10}
    with monkeypatch.context() as patch:
        patch.setattr(build_module, "write_rows", full)
        with pytest.raises(InputError, match=r"disk is full.*it goes on where it stopped"):
            build(store, embed, tmp_path / "index", **args)
    rest = Interrupted(embed, 99, KeyboardInterrupt())
    index = build(store, rest, tmp_path / "index", **args)
    assert len(rest.seen) == 20
    assert torch.equal(index.embeddings, vectors)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda v: v[:-1], "embed returned 49 vectors for 50 passages"),
        (lambda v: v[:, 1:], "but the index is of dim 8"),
        (lambda v: v.index_fill(0, torch.tensor([33]), torch.nan), "embedding of row 33 is not"),
        (lambda v: v * 1e9, r"not finite in torch\.float16.*wider dtype"),
    ],
)
def test_bad_vectors(tmp_path, store, embed, fingerprint, wrong, message):
    with pytest.raises(InputError, match=message):
        build(store, lambda p: wrong(embed(p)), tmp_path / "index", fingerprint=fingerprint)
    assert not (tmp_path / "index").exists()


def test_bad_arguments(tmp_path, store, embed, fingerprint):
    with pytest.raises(InputError, match="the fingerprint names corpus 'corpus'"):
        build(store, embed, tmp_path / "index", fingerprint=make_fingerprint(dim=DIM))
    with pytest.raises(InputError, match="store vectors as one of float32, float16, bfloat16"):
        build(store, embed, tmp_path / "i", fingerprint=fingerprint, dtype=torch.float64)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("")
    with pytest.raises(InputError, match=r"holds 'a\.txt'"):
        build(store, embed, tmp_path / "notes", fingerprint=fingerprint)
    (tmp_path / "notes").rename(tmp_path / "index.partial")
    with pytest.raises(InputError, match="so it is no unfinished build"):
        build(store, embed, tmp_path / "index", fingerprint=fingerprint)
    assert (tmp_path / "index.partial" / "a.txt").exists()


KILLED = """
import os, signal, sys, torch
from atlas_lm.index import Fingerprint, build
from atlas_lm.passages.store import PassageStore
store = PassageStore.open(sys.argv[1])
calls = 0
def embed(passages):
    global calls
    calls += 1
    if calls == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return torch.tensor([[float(p.id[1:])] * 4 for p in passages])
build(store, embed, sys.argv[2], passages_at_a_time=5, dtype=torch.float32,
      fingerprint=Fingerprint("e", "t", "mean", "dot", 9, 4, store.fingerprint))
"""


@pytest.mark.slow
def test_a_killed_process_loses_one_chunk(tmp_path, corpus):
    runs = 0
    while not (tmp_path / "index" / "manifest.json").exists():
        command = [sys.executable, "-c", KILLED, str(corpus), str(tmp_path / "index")]
        code = subprocess.run(command, check=False, capture_output=True).returncode
        runs += 1
        assert code in (0, -signal.SIGKILL)
    assert runs == 4  # 50 passages, 15 a run
    expected = torch.arange(COUNT).float()[:, None].expand(-1, 4)
    assert torch.equal(FlatIndex.load(tmp_path / "index", verify=True).embeddings, expected)


def test_a_build_stopped_while_coding_embeds_nothing_again(
    tmp_path, store, embed, fingerprint, monkeypatch
):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    settings = IndexSettings(kind="int8", dtype="float32", recall_k=5)
    with monkeypatch.context() as patch:
        patch.setattr(build_module, "encode", interrupt)
        with pytest.raises(KeyboardInterrupt):
            build(store, embed, tmp_path / "index", fingerprint=fingerprint, settings=settings)
    assert not (tmp_path / "index").exists()
    no_more = Interrupted(embed, 1, AssertionError("everything was embedded already"))
    build(store, no_more, tmp_path / "index", fingerprint=fingerprint, settings=settings)
    index, _ = open_index(tmp_path / "index", verify=True)
    assert len(index) == COUNT
    names = {path.name for path in (tmp_path / "index").iterdir()}
    assert names == {"manifest.json", "codes.array", "scales.array"}


def test_a_second_build_of_the_same_index_is_refused(tmp_path, store, embed, fingerprint):
    def busy(passages):
        with pytest.raises(InputError, match="another process is writing this index"):
            build(store, embed, tmp_path / "index", fingerprint=fingerprint)
        return embed(passages)

    build(store, busy, tmp_path / "index", fingerprint=fingerprint)


def never(passages):
    raise AssertionError("embedded before it was known whether the index can be built")


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("IVF2,PQ", "faiss cannot build 'IVF2,PQ' for vectors of 8 components"),
        ("IVF64,Flat", "at least 64 vectors, and these are 50"),
        ("OPQ4,IVF2,PQ4", "at least 256 vectors"),
        ("PQ4x4fs", ""),
    ],
)
def test_a_factory_is_refused_before_passages_are_embedded(
    tmp_path, store, fingerprint, factory, message
):
    pytest.importorskip("faiss")
    settings = IndexSettings(kind="faiss", factory=factory)
    error = (InputError, message) if message else (AssertionError, "embedded before")
    with pytest.raises(error[0], match=error[1]):
        build(store, never, tmp_path / "index", fingerprint=fingerprint, settings=settings)


@pytest.mark.parametrize(("kind", "module"), [("faiss", "faiss"), ("milvus", "pymilvus")])
def test_a_missing_extra_is_named_before_passages_are_embedded(
    tmp_path, store, fingerprint, monkeypatch, kind, module
):
    monkeypatch.setitem(sys.modules, module, None)
    settings = IndexSettings(kind=kind, factory="SQ8" if kind == "faiss" else "")
    with pytest.raises(InputError, match=rf"atlas-lm\[{kind}\]"):
        build(store, never, tmp_path / "index", fingerprint=fingerprint, settings=settings)


def test_an_option_without_effect_is_refused_before_passages_are_embedded(
    tmp_path, store, fingerprint
):
    settings = IndexSettings(url="http://cluster")
    with pytest.raises(InputError, match="set kind=milvus"):
        build(store, never, tmp_path / "index", fingerprint=fingerprint, settings=settings)
