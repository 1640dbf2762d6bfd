from __future__ import annotations

import http.server
import os
import socket
import struct
import threading
from typing import ClassVar

import huggingface_hub
import pytest

from atlas_lm.data.official_fetch import fetch
from atlas_lm.runtime.errors import InputError

CONTENT = bytes(range(256)) * 64


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT at /a.jsonl, by range too.

    The first time /cut.jsonl ends half-way, /reset.jsonl is reset there. /changed.jsonl ends
    half-way too, and is of another version every time.
    """

    asked: ClassVar[list[str | None]] = []
    sent: ClassVar[list[int]] = []

    def do_GET(self):
        asked = self.headers.get("Range")
        self.asked.append(asked)
        if self.path == "/missing.jsonl":
            self.send_error(404, "Not Found")
            return
        version = f'"{len(self.asked)}"' if self.path.startswith("/changed") else '"1"'
        first = len(self.asked) == 1
        if self.headers.get("If-Range", version) != version:
            asked = None
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.send_header("ETag", version)
        self.end_headers()
        half = self.path.startswith(("/cut", "/reset", "/changed")) and first
        self.sent.append(self.wfile.write(CONTENT[start : len(CONTENT) // 2 if half else None]))
        if half and self.path.startswith("/reset"):
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            os.close(self.connection.detach())

    def log_message(self, *_):
        pass


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.setenv("ATLAS_LM_CACHE", str(tmp_path / "cache"))
    Handler.asked.clear()
    Handler.sent.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def got(address: str, **options):
    return fetch(address, suffixes=(".jsonl", ".jsonl.gz"), **options)


def test_a_url_is_downloaded_once(site):
    path = got(f"{site}/a.jsonl")
    assert path.name == "a.jsonl"
    assert path.read_bytes() == CONTENT
    assert got(f"{site}/a.jsonl") == path
    assert Handler.asked == [None]
    got(f"{site}/a.jsonl", force=True)
    assert Handler.asked == [None, None]


def test_a_cut_download_goes_on_where_it_stopped(site):
    url = f"{site}/cut.jsonl"
    with pytest.raises(
        InputError, match=r"ended after 8,192 of 16,384 bytes; run the command again"
    ):
        got(url)
    assert got(url).read_bytes() == CONTENT
    assert Handler.asked == [None, "bytes=8192-"]


def test_a_connection_that_is_reset_is_said_and_can_be_run_again(site):
    with pytest.raises(InputError, match=r"reset.*; check .* run the command again"):
        got(f"{site}/reset.jsonl")
    assert got(f"{site}/reset.jsonl").read_bytes() == CONTENT


def test_a_cut_download_of_a_file_that_changed_starts_anew(site):
    with pytest.raises(InputError, match="ended after"):
        got(f"{site}/changed.jsonl")
    path = got(f"{site}/changed.jsonl")
    assert path.read_bytes() == CONTENT
    assert Handler.sent == [len(CONTENT) // 2, len(CONTENT)]
    assert [file.name for file in path.parent.iterdir()] == ["changed.jsonl"]


def test_a_whole_part_that_was_not_renamed_starts_anew(site, tmp_path):
    path = got(f"{site}/a.jsonl")
    path.rename(path.with_name("a.jsonl.part"))
    assert got(f"{site}/a.jsonl").read_bytes() == CONTENT


def test_what_is_not_there_is_said(site):
    with pytest.raises(InputError, match=r"missing.jsonl: cannot be downloaded \(404 Not Found\)"):
        got(f"{site}/missing.jsonl")
    with pytest.raises(InputError, match="Connection refused"):
        got("http://127.0.0.1:9/a.jsonl")


@pytest.mark.parametrize("name", ["none.jsonl", "data/none.jsonl", "./a/b", "/a/b/c", "a/b/c/d"])
def test_a_path_that_is_not_there_is_not_sought_on_the_hub(name, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    with pytest.raises(InputError, match=r"no such file or directory; give a path, a URL"):
        got(name)


def test_a_data_set_of_the_hub(tmp_path, monkeypatch):
    calls = []

    def whole(**asked):
        calls.append(asked)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", whole)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", whole)
    assert got("owner/name") == tmp_path
    assert got("hf://datasets/owner/name@v2/open/train.jsonl") == tmp_path
    shared = {"repo_id": "owner/name", "repo_type": "dataset", "force_download": False}
    assert calls == [
        {**shared, "revision": None, "allow_patterns": ["*.jsonl", "*.jsonl.gz"]},
        {**shared, "revision": "v2", "filename": "open/train.jsonl"},
    ]


def test_a_hub_out_of_reach_is_said(monkeypatch):
    def offline(**_):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no connection\nlong story")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    told = r"owner/name: no such path here, and not had from the Hub .*no connection\); check"
    with pytest.raises(InputError, match=told):
        got("owner/name")
