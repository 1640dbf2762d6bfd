from __future__ import annotations

import pytest

from atlas_lm.index import choose as module
from atlas_lm.index.choose import choose
from atlas_lm.index.kinds import encode
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.memory import parse_bytes
from tests.index.coded import clustered
from tests.index.conftest import make_fingerprint

WIKIPEDIA = 37_000_000, 768


@pytest.fixture(params=[True, False], ids=["faiss", "no_faiss"])
def faiss(request, monkeypatch) -> bool:
    monkeypatch.setattr(module, "_has_faiss", lambda: request.param)
    return request.param


def test_codes_that_fit_are_exact(faiss):
    # 37M x (768 + 4) bytes are 28.56 GB; four fifths of 36 GB are 28.8
    choice = choose(*WIKIPEDIA, parse_bytes("36GB"))
    assert choice.settings.kind == "flat"
    assert choice.settings.first_pass
    assert choice.settings.unpacked  # 768 components are padded to 1024
    assert choice.memory_bytes == 37_000_000 * 772
    assert choice.disk_bytes == 37_000_000 * (772 + 2 * 768)
    assert choice.reason == (
        "flat, for it is exact, and the int8 codes that a search reads, 28.6 GB, fit into 28.8 GB "
        "(four fifths of the memory given); the float16 vectors, 56.8 GB, stay on disk; "
        "packed for few queries they would take 37.9 GB, and are not"
    )


def test_codes_whose_packed_copy_fits_too_are_packed():
    choice = choose(*WIKIPEDIA, parse_bytes("48GB"))
    assert not choice.settings.unpacked
    assert choice.memory_bytes == 37_000_000 * 1024
    assert "packed" not in choice.reason


def test_sixteen_gigabytes_are_not_enough_for_int8(faiss):
    choice = choose(*WIKIPEDIA, parse_bytes("16GB"))
    assert choice.settings.kind == "binary"
    assert choice.settings.keep_vectors
    assert choice.memory_bytes == 37_000_000 * 100  # 768 bits and four bytes
    assert "int8 codes would take 28.6 GB" in choice.reason
    assert "3.7 GB, fit into 12.8 GB" in choice.reason


def test_very_little_memory_needs_faiss(faiss):
    if not faiss:
        with pytest.raises(
            InputError, match=r"need at least 4.6 GB, as binary .*atlas-lm\[faiss\]"
        ):
            choose(*WIKIPEDIA, parse_bytes("4GB"))
        return
    choice = choose(*WIKIPEDIA, parse_bytes("4GB"))
    assert choice.settings.factory == "PQ96x4fs"  # four bits for eight components: 48 bytes
    assert choice.memory_bytes == 37_000_000 * 48 + 16 * 4 * 768
    assert choice.settings.train_rows == 262_144
    assert choose(*WIKIPEDIA, parse_bytes("2GB")).settings.factory == "PQ48x4fs"
    with pytest.raises(InputError, match=r"need at least .* as faiss PQ48x4fs; give more memory"):
        choose(*WIKIPEDIA, parse_bytes("100MB"))


def test_a_small_corpus():
    assert choose(5_000, 384, parse_bytes("10MB")).settings.kind == "flat"
    assert choose(50_000, 384, parse_bytes("10MB")).settings.kind == "binary"
    with pytest.raises(InputError, match="as binary"):
        choose(900, 384, parse_bytes("1kB"))


def test_what_is_chosen_can_be_built(tmp_path):
    pytest.importorskip("faiss")
    vectors = clustered(2000, 32).half()
    fingerprint = make_fingerprint(dim=32)
    for memory in ("1MB", "50kB", "8kB", "6kB"):
        choice = choose(2000, 32, parse_bytes(memory))
        encoded = encode(choice.settings, vectors, directory=tmp_path, fingerprint=fingerprint)
        assert encoded.recall is None or encoded.recall.recall > 0.5


def test_every_choice_fits_and_less_memory_is_never_more_exact(faiss):
    order = ["flat", "binary", "PQ128x4fs", "PQ64x4fs"]
    last = 0
    for memory in range(40_000, 1_000, -500):
        try:
            choice = choose(37_000_000, 1024, memory * 10**6)
        except InputError:
            last = len(order)
            continue
        assert last < len(order)
        assert choice.memory_bytes <= 0.8 * memory * 10**6
        place = order.index(choice.settings.factory or choice.settings.kind)
        assert place >= last
        last = place
