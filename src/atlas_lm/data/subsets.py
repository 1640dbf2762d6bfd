"""A small file that says which questions are answerable and supported, and by which passages.

It holds row numbers only, no text, and the SHA-256 of every input it belongs to, so that nobody
has to embed ten thousand passages to prepare the benchmark. `atlas_lm.data.recompute` makes it.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atlas_lm.data.supported import Evidence, SupportRule
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.files import atomic_path

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Subsets:
    """What the corpus holds for each question of each source."""

    evidence: Mapping[str, Mapping[int, Evidence]]
    """Source name to row of the question to evidence; answerable questions only."""
    inputs: Mapping[str, str]
    """SHA-256 of the corpus file and of each topics file, by name."""
    rule: SupportRule
    """The numbers of the rules."""
    encoder: str
    """The retriever that gave the candidates."""

    def check_inputs(self, inputs: Mapping[str, str], *, place: str) -> None:
        """Raise unless ``inputs`` are the files these subsets were made from.

        Raises:
            InputError: a file differs, is missing or is new.
        """
        for name in sorted({*self.inputs, *inputs}):
            if self.inputs.get(name) != inputs.get(name):
                raise InputError(
                    f"{place}: made from another {name} (SHA-256 {self.inputs.get(name)}, "
                    f"now {inputs.get(name)}); run atlas-lm prepare minipedia --recompute-subsets"
                )


def write_subsets(path: Path, subsets: Subsets) -> None:
    """Write ``subsets`` as gzipped JSON; equal subsets give equal bytes."""
    sources = {
        source: {
            "rows": list(evidence),
            "supporting": [list(item.supporting) for item in evidence.values()],
            "other": [list(item.other) for item in evidence.values()],
        }
        for source, evidence in subsets.evidence.items()
    }
    content = {
        "format_version": FORMAT_VERSION,
        "made_by": "atlas-lm prepare minipedia --recompute-subsets",
        "encoder": subsets.encoder,
        "rule": dataclasses.asdict(subsets.rule),
        "inputs": dict(subsets.inputs),
        "sources": sources,
    }
    text = json.dumps(content, separators=(",", ":"))
    with atomic_path(path) as temporary:
        temporary.write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))


def read_subsets(path: Path) -> Subsets:
    """Read what `write_subsets` wrote.

    Raises:
        InputError: the file is missing, damaged, or of another format version.
    """
    remedy = "run atlas-lm prepare minipedia --recompute-subsets, or install atlas-lm again"
    try:
        content = json.loads(gzip.decompress(path.read_bytes()))
        version = content["format_version"]
        if version != FORMAT_VERSION:
            raise InputError(f"{path}: format_version {version}, expected 1; {remedy}")
        return Subsets(
            evidence={name: _evidence(source) for name, source in content["sources"].items()},
            inputs=content["inputs"],
            rule=SupportRule(**content["rule"]),
            encoder=content["encoder"],
        )
    except (
        OSError,
        EOFError,
        zlib.error,
        KeyError,
        TypeError,
        UnicodeDecodeError,
        json.JSONDecodeError,
    ) as error:
        raise InputError(f"{path}: no readable subsets file ({error!r}); {remedy}") from error


def _evidence(source: Mapping[str, Any]) -> dict[int, Evidence]:
    columns = zip(source["rows"], source["supporting"], source["other"], strict=True)
    return {row: Evidence(tuple(supporting), tuple(other)) for row, supporting, other in columns}
