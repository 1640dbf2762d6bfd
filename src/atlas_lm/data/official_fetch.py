"""Official files by address: a path, a URL or an id of the Hugging Face Hub, as a path on disk."""

from __future__ import annotations

import hashlib
import http.client
import importlib
import os
import re
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Collection
from email.message import Message
from pathlib import Path
from typing import Any

from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.files import full_disk_explained
from atlas_lm.runtime.logs import notice, progress_bar
from atlas_lm.runtime.settings import cache_dir

HUB = re.compile(
    r"(?:hf://datasets/)?(?P<id>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^/\s]+))?(?:/(?P<file>.+))?"
)
BLOCK_BYTES = 1 << 20
_UNREACHABLE = (
    urllib.error.URLError,
    http.client.HTTPException,
    TimeoutError,
    ConnectionError,
    ssl.SSLError,
    ValueError,
)


def fetch(address: str, *, suffixes: Collection[str], force: bool = False) -> Path:
    """Return where the file or directory at ``address`` lies, downloaded if need be.

    What comes from a URL is kept in the cache directory and taken from there the next time; a
    download that was cut off goes on where it stopped. What comes from the Hub is kept where
    ``huggingface_hub`` keeps it.

    Args:
        address: a path; ``http(s)://…``; ``owner/name`` of a data set on the Hub where no such path
            exists, or ``hf://datasets/owner/name[@revision][/file]``.
        suffixes: of the files taken from a whole data set of the Hub.
        force: download again what is in the cache.

    Raises:
        InputError: there is nothing at the address, or it cannot be reached.
    """
    if address.startswith(("http://", "https://")):
        return _download(address, force=force)
    if not address.startswith("hf://") and Path(address).exists():
        return Path(address)
    found = HUB.fullmatch(address)
    if found is None or not (address.startswith("hf://") or _is_id(found, suffixes)):
        raise InputError(
            f"{address}: no such file or directory; give a path, a URL, a Hub id owner/name, or "
            "hf://datasets/owner/name/file"
        )
    return _from_hub(address, found, suffixes=suffixes, force=force)


def _is_id(found: re.Match[str], suffixes: Collection[str]) -> bool:
    """Return whether what is not there as a path may be meant as a Hub id: not with a suffix."""
    a_path = found["id"].startswith(".") or found["id"].endswith(tuple(suffixes))
    return not a_path and not found["file"]


def _from_hub(
    address: str, found: re.Match[str], *, suffixes: Collection[str], force: bool
) -> Path:
    hub = importlib.import_module("huggingface_hub")
    asked: dict[str, Any] = {
        "repo_id": found["id"],
        "repo_type": "dataset",
        "revision": found["revision"],
        "force_download": force,
    }
    try:
        if found["file"]:
            return Path(hub.hf_hub_download(filename=found["file"], **asked))
        patterns = [f"*{suffix}" for suffix in suffixes]
        return Path(hub.snapshot_download(allow_patterns=patterns, **asked))
    except (OSError, ValueError) as error:
        first = str(error).strip().split("\n")[0]
        raise InputError(
            f"{address}: no such path here, and not had from the Hub "
            f"({type(error).__name__}: {first}); check the name and the connection, or download "
            "the file elsewhere and give its path"
        ) from error


def _download(url: str, *, force: bool) -> Path:
    name = Path(urllib.parse.unquote(urllib.parse.urlsplit(url).path)).name or "download"
    key = hashlib.sha256(url.encode()).hexdigest()[:24]
    kept = cache_dir() / "downloads" / key / name
    if kept.is_file() and not force:
        return kept
    kept.parent.mkdir(parents=True, exist_ok=True)
    part = kept.with_name(f"{name}.part")
    if force:
        part.unlink(missing_ok=True)
    notice(f"Downloading {url}")
    try:
        with full_disk_explained(part):
            _receive(url, part)
    except InputError:
        raise
    except _UNREACHABLE as error:
        reason = getattr(error, "reason", None) or error
        code = f"{error.code} " if isinstance(error, urllib.error.HTTPError) else ""
        raise InputError(
            f"{url}: cannot be downloaded ({code}{reason}); check the address and the connection "
            "and run the command again, or download the file elsewhere and give its path"
        ) from error
    os.replace(part, kept)
    _version_of(part).unlink(missing_ok=True)
    return kept


def _receive(url: str, part: Path) -> None:
    """Write what is at ``url`` to ``part``, after what is there already of the same version.

    A server that names no version is trusted not to have changed the file.

    Raises:
        InputError: the server closed the connection before the end; run again to go on.
    """
    have, version = part.stat().st_size if part.exists() else 0, _version_of(part)
    request = urllib.request.Request(url, headers={"User-Agent": "atlas-lm"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        if version.exists():
            request.add_header("If-Range", version.read_text("utf-8"))
    try:
        answer = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if have and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink()
            return _receive(url, part)
        raise
    with answer, progress_bar() as progress:
        if answer.status != http.HTTPStatus.PARTIAL_CONTENT:
            have = 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else None
        task = progress.add_task("Downloading (MB)", total=total and -(-total >> 20))
        with open(part, "ab" if have else "wb") as file:
            if not have:
                _note_version(version, answer.headers)
            while block := answer.read(BLOCK_BYTES):
                file.write(block)
                have += len(block)
                progress.update(task, completed=have >> 20)
    if total is not None and have < total:
        raise InputError(
            f"{url}: the connection ended after {have:,} of {total:,} bytes; run the command "
            "again to go on from there"
        )


def _version_of(part: Path) -> Path:
    """Return where the version of an unfinished download is noted."""
    return part.with_name(f"{part.name}.version")


def _note_version(path: Path, headers: Message) -> None:
    """Keep what `If-Range` takes: a strong ETag, or when the file was changed."""
    etag = headers.get("ETag", "W/")
    if version := headers.get("Last-Modified") if etag.startswith("W/") else etag:
        path.write_text(version, "utf-8")
    else:
        path.unlink(missing_ok=True)
