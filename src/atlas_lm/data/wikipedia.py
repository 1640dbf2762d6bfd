"""A Wikipedia dump to a passage file, as a stream, by several processes.

One process reads the dump; others make passages of its articles, a bounded number of pages at a
time. The passages are in the order of the dump whatever the number of processes.
"""

from __future__ import annotations

import gzip
import io
import multiprocessing
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import orjson

from atlas_lm.data.official_fetch import fetch
from atlas_lm.data.wikipedia_dump import Dump, Page, open_dump
from atlas_lm.data.wikipedia_text import WikitextSettings, article, is_redirect
from atlas_lm.passages.chunk import WORD, chunks
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.files import atomic_path, read_json, sha256_file, write_json
from atlas_lm.runtime.logs import notice, progress_bar

FORMAT_VERSION = 1
BATCH_CHARS = 500_000
"""Wikitext handed to a process at once; a page more than it is still one batch."""
PAGE_CHARS = 500
"""What a page counts besides its text."""
BATCHES_AHEAD = 3
"""Batches for each process that are under way at most."""
SUFFIXES = (".xml.bz2", ".xml.gz", ".xml")


@dataclass(frozen=True, kw_only=True)
class WikipediaSettings:
    """How articles become passages."""

    words: int = 100
    """Words of a passage, about."""
    limit: int | None = None
    """Articles, after which the reading ends."""
    processes: int = 0
    """Processes that make passages; 0 for one for each core."""
    wikitext: WikitextSettings = field(default_factory=WikitextSettings)
    """What of an article becomes text."""

    def __post_init__(self) -> None:
        if self.words < 1:
            raise InputError(f"--words {self.words}: give at least 1")
        if self.limit is not None and self.limit < 1:
            raise InputError(f"--limit {self.limit}: give at least 1")
        if self.processes < 0:
            raise InputError(f"--processes {self.processes}: give 0 or more")

    @property
    def told(self) -> dict[str, Any]:
        """What decides the passages, for the manifest."""
        wikitext = asdict(self.wikitext)
        wikitext["skipped_sections"] = sorted(self.wikitext.skipped_sections)
        return {"words": self.words, "limit": self.limit, **wikitext}


@dataclass
class Made:
    """What a batch of pages became."""

    lines: bytes = b""
    counts: Counter[str] = field(default_factory=Counter)
    unread: list[str] = field(default_factory=list)
    """Titles of articles whose wikitext is nested too deeply to be read."""


def prepare_wikipedia(
    dumps: Sequence[str],
    out: str | Path,
    settings: WikipediaSettings | None = None,
    *,
    force: bool = False,
) -> dict[str, Any]:
    """Write the passages of the dumps' articles to ``out``; return the manifest beside it.

    A passage has the id ``PAGE-NUMBER``, the article's title, the headings above it as section, and
    as metadata ``wikipedia_id`` (the page's id, as in KILT's provenance) and ``revision``. Where
    ``out`` was made from the same dumps with the same settings nothing is written.

    Args:
        dumps: paths, URLs or Hub files of one wiki, in order.
        out: a file ending in .jsonl or .jsonl.gz.
        settings: how articles become passages.
        force: download and write again even so.

    Raises:
        InputError: a dump is missing, damaged or cut short, or holds no article; ``out`` is as it
            was.
    """
    settings, out = settings or WikipediaSettings(), Path(out)
    if not out.name.endswith((".jsonl", ".jsonl.gz")):
        raise InputError(f"{out}: passages are written as .jsonl or .jsonl.gz; name such a file")
    paths = [fetch(dump, suffixes=SUFFIXES, force=force) for dump in dumps]
    sizes = [{"bytes": path.stat().st_size, "sha256": sha256_file(path)} for path in paths]
    asked = {
        "kind": "wikipedia",
        "format_version": FORMAT_VERSION,
        "options": settings.told,
        "inputs": [{"name": dump, **size} for dump, size in zip(dumps, sizes, strict=True)],
    }
    manifest_path = out.with_name(f"{out.name}.manifest.json")
    if not force and (present := _present(out, manifest_path, asked)):
        notice(f"{out}: complete, its checksum agrees; --force makes it again")
        return present
    with atomic_path(out) as temporary:
        with _writing(temporary, packed=out.name.endswith(".gz")) as file:
            total = _write(paths, file, settings)
        if not total.counts["passages"]:
            raise InputError(f"{', '.join(dumps)}: no article with text in {_told(total.counts)}")
        manifest_path.unlink(missing_ok=True)
    described = {"bytes": out.stat().st_size, "sha256": sha256_file(out)}
    counts = {name: total.counts[name] for name in COUNTS}
    manifest = {**asked, "out": str(out), "counts": counts, "unread": total.unread, **described}
    write_json(manifest_path, manifest)
    return manifest


COUNTS = (
    "pages",
    "articles",
    "passages",
    "words",
    "redirects",
    "disambiguations",
    "other_namespaces",
    "without_text",
    "unread",
)


def make_passages(
    pages: Sequence[Page], settings: WikipediaSettings, media: frozenset[str]
) -> Made:
    """Return the passages of pages as JSON lines, with counts of what they were."""
    made, lines = Made(), io.BytesIO()
    for page in pages:
        made.counts["pages"] += 1
        kind = _kind(page)
        if kind:
            made.counts[kind] += 1
            continue
        try:
            document = article(page.title, page.text, settings.wikitext, media=media)
            if document is None:
                made.counts["disambiguations"] += 1
                continue
            written = list(chunks(document, words=settings.words))
        except RecursionError:
            made.counts["unread"] += 1
            made.unread.append(page.title)
            continue
        made.counts["articles" if written else "without_text"] += 1
        for number, (section, text) in enumerate(written, start=1):
            made.counts["passages"] += 1
            made.counts["words"] += len(WORD.findall(text))
            record = {
                "id": f"{page.id}-{number}",
                "title": page.title,
                "section": section,
                "text": text,
                "wikipedia_id": str(page.id),
                "revision": page.revision,
            }
            lines.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
    made.lines = lines.getvalue()
    return made


def _present(out: Path, manifest_path: Path, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the manifest of ``out`` where it is what was asked for, whole; else nothing."""
    if not (out.exists() and manifest_path.exists()):
        return {}
    present: dict[str, Any] = read_json(manifest_path, what="the manifest of prepare wikipedia")
    same = asked.items() <= present.items() and present["sha256"] == sha256_file(out)
    return present if same else {}


def _kind(page: Page) -> str:
    """Return what a page is that is no article, for the counts."""
    if page.namespace != 0:
        return "other_namespaces"
    if page.redirect or is_redirect(page.text):
        return "redirects"
    return "" if page.text.strip() else "without_text"


def _write(paths: Sequence[Path], file: IO[bytes], settings: WikipediaSettings) -> Made:
    total = Made()
    size = sum(path.stat().st_size for path in paths)
    processes = settings.processes or _cores()
    with _executor(processes) as submit, progress_bar() as progress:
        task = progress.add_task("Reading Wikipedia (MB)", total=-(-size >> 20))
        done = 0
        for path in paths:
            with open_dump(path) as dump:
                for made in _in_order(dump, settings, submit, ahead=BATCHES_AHEAD * processes):
                    progress.update(task, completed=(done + dump.position()) >> 20)
                    file.write(made.lines)
                    total.counts += made.counts
                    total.unread += made.unread
                    if settings.limit and total.counts["articles"] >= settings.limit:
                        return total
            done += path.stat().st_size
        progress.update(task, completed=-(-size >> 20))
    return total


Submit = Callable[[Sequence[Page], WikipediaSettings, frozenset[str]], "Future[Made]"]


def _in_order(
    dump: Dump, settings: WikipediaSettings, submit: Submit, *, ahead: int
) -> Iterator[Made]:
    """Yield what the batches of a dump became, in order, with at most ``ahead`` under way."""
    under_way: deque[Future[Made]] = deque()
    for batch in _batches(dump.pages, settings.limit):
        under_way.append(submit(batch, settings, dump.media))
        if len(under_way) >= ahead:
            yield under_way.popleft().result()
    while under_way:
        yield under_way.popleft().result()


def _batches(pages: Iterator[Page], limit: int | None) -> Iterator[list[Page]]:
    """Yield pages of some `BATCH_CHARS` together; single articles where there is a limit."""
    batch: list[Page] = []
    held = 0
    for page in pages:
        batch.append(page)
        held += len(page.text) + PAGE_CHARS
        if held >= BATCH_CHARS or (limit and not _kind(page)):
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


@contextmanager
def _executor(processes: int) -> Iterator[Submit]:
    """Give what hands a batch to one of the processes; with one it is made at once, here."""
    if processes == 1:
        yield _at_once
        return
    context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
    if os.name == "posix":
        context.set_forkserver_preload([__name__])
    executor = ProcessPoolExecutor(processes, mp_context=context)
    try:
        yield lambda batch, settings, media: executor.submit(make_passages, batch, settings, media)
    except BrokenProcessPool as error:
        raise InputError(
            f"--processes {processes}: one of them ended, most likely for want of memory; "
            "give fewer"
        ) from error
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _at_once(
    batch: Sequence[Page], settings: WikipediaSettings, media: frozenset[str]
) -> Future[Made]:
    made: Future[Made] = Future()
    made.set_result(make_passages(batch, settings, media))
    return made


@contextmanager
def _writing(path: Path, *, packed: bool) -> Iterator[IO[bytes]]:
    with open(path, "wb") as file:
        if not packed:
            yield file
            return
        with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0, compresslevel=6) as gz:
            yield gz  # type: ignore[misc]


def _cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _told(counts: Counter[str]) -> str:
    return ", ".join(
        f"{counts[name]:,} {name.replace('_', ' ')}" for name in COUNTS if counts[name]
    )
