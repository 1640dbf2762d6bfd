"""Small wheels of the real format, made on the spot."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

from atlas_lm.runtime.files import sha256_file
from atlas_lm.runtime.packages import PinnedWheel


def write_wheel(
    directory: Path, name: str, version: str, files: Mapping[str, str | bytes]
) -> PinnedWheel:
    """Write a wheel that pip accepts and return its pin."""
    directory.mkdir(parents=True, exist_ok=True)
    stem = f"{name.replace('-', '_')}-{version}"
    path = directory / f"{stem}-py3-none-any.whl"
    information = {
        f"{stem}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{stem}.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in {**files, **information}.items():
            archive.writestr(member, content)
        record = "".join(f"{member},,\n" for member in archive.namelist())
        archive.writestr(f"{stem}.dist-info/RECORD", record + f"{stem}.dist-info/RECORD,,\n")
    return PinnedWheel(
        name=name, version=version, filename=path.name, sha256=sha256_file(path), megabytes=0
    )
