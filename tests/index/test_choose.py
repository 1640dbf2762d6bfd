from __future__ import annotations

import pytest

from atlas_lm.index import choose as module
from atlas_lm.index.choose import choose, parse_size
from atlas_lm.runtime.errors import InputError

WIKIPEDIA = 37_000_000, 768


@pytest.fixture(params=[True, False], ids=["faiss", "no_faiss"])
def faiss(request, monkeypatch) -> bool:
    monkeypatch.setattr(module, "_has_faiss", lambda: request.param)
    return request.param


def test_codes_that_fit_are_exact(faiss):
    # 37M x (768 + 4) bytes are 28.56 GB; four fifths of 36 GB are 28.8
    choice = choose(*WIKIPEDIA, parse_size("36GB"))
    assert choice.settings.kind == "flat"
    assert choice.settings.first_pass
    assert choice.memory_bytes == 37_000_000 * 772
    assert choice.disk_bytes == 37_000_000 * (772 + 2 * 768)
    assert choice.reason == (
        "flat, for it is exact, and the int8 codes that a search reads, 28.6 GB, fit into 28.8 GB "
        "(four fifths of the memory given); the float16 vectors, 56.8 GB, stay on disk"
    )


def test_sixteen_gigabytes_are_not_enough_for_int8(faiss):
    choice = choose(*WIKIPEDIA, parse_size("16GB"))
    assert choice.settings.kind == "binary"
    assert choice.settings.keep_vectors
    assert choice.memory_bytes == 37_000_000 * 100  # 768 bits and four bytes
    assert "int8 codes would take 28.6 GB" in choice.reason
    assert "3.7 GB, fit into 12.8 GB" in choice.reason


def test_half_the_size_is_four_bits_where_faiss_is(faiss):
    choice = choose(*WIKIPEDIA, parse_size("20GB"))
    assert (choice.settings.kind, choice.settings.factory) == (
        ("faiss", "IVF,SQ4") if faiss else ("binary", "")
    )


def test_very_little_memory_needs_faiss(faiss):
    if not faiss:
        with pytest.raises(
            InputError, match=r"need at least 4.6 GB, as binary .*atlas-lm\[faiss\]"
        ):
            choose(*WIKIPEDIA, parse_size("4GB"))
        return
    choice = choose(*WIKIPEDIA, parse_size("4GB"))
    assert choice.settings.factory == "IVF,PQ48"
    assert choice.settings.train_rows <= 262_144
    with pytest.raises(InputError, match=r"need at least .* as faiss IVF,PQ24; give more memory"):
        choose(*WIKIPEDIA, parse_size("100MB"))


def test_a_small_corpus_takes_no_lists():
    assert choose(5_000, 384, parse_size("10MB")).settings.kind == "flat"
    assert choose(50_000, 384, parse_size("10MB")).settings.kind == "binary"


def test_every_choice_fits_and_less_memory_is_never_more_exact(faiss):
    order = ["flat", "IVF,SQ4", "binary", "IVF,PQ64", "IVF,PQ32"]
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


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("16GB", 16 * 10**9),
        ("16g", 16 * 10**9),
        ("1.5 GiB", 3 * 2**29),
        ("500MB", 5 * 10**8),
        ("9", 9),
    ],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "0GB", "16 GX", "1ib", "lots"])
def test_what_is_no_size(text):
    with pytest.raises(InputError, match="is no size of memory; write for instance 16GB"):
        parse_size(text)
