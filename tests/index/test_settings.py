from __future__ import annotations

import pytest

from atlas_lm.index.settings import IndexSettings
from atlas_lm.runtime.errors import InputError


def test_what_the_manifest_records_is_what_was_set():
    settings = IndexSettings(kind="faiss", factory="IVF16,PQ4", nprobe=3, keep_vectors=True)
    assert IndexSettings.from_dict(settings.as_dict(), place="manifest") == settings
    assert IndexSettings.from_dict({}, place="manifest") == IndexSettings()


def test_flat_always_keeps_its_vectors():
    assert IndexSettings().keeps_vectors
    assert not IndexSettings(kind="int8").keeps_vectors
    assert IndexSettings(kind="binary", keep_vectors=True).keeps_vectors


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "int9"}, r"did you mean 'int8'"),
        ({"dtype": "int8"}, "float32, float16, bfloat16"),
        ({"kind": "faiss"}, "needs a factory string"),
        ({"kind": "int8", "factory": "Flat"}, "set kind=faiss"),
        ({"nprobe": 0}, "nprobe=0: choose at least 1"),
        ({"rescore": 0}, "rescore=0"),
        ({"recall_queries": -1}, "at least 0"),
    ],
)
def test_impossible_settings_name_value_and_remedy(values, message):
    with pytest.raises(InputError, match=message):
        IndexSettings(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"url": "http://cluster"}, "url='http://cluster' has no effect .* flat; set kind=milvus"),
        ({"kind": "faiss", "factory": "SQ8", "nprobe": 3}, "kind faiss SQ8; .* factory with IVF"),
        ({"kind": "faiss", "factory": "IVF4,Flat", "ef_search": 3}, "ef_search=3 has no effect"),
        ({"kind": "faiss", "factory": "SQ8", "rescore": 3}, "faiss with keep_vectors"),
        ({"kind": "int8", "train_rows": 9}, "train_rows=9"),
        ({"kind": "int8", "collection": "mine"}, "collection='mine'"),
        ({"rescore": 9}, "rescore=9"),
    ],
)
def test_what_has_no_effect_is_refused_where_an_index_is_built(values, message):
    settings = IndexSettings(**values)
    with pytest.raises(InputError, match=message):
        settings.check_used()
    used = {"kind": "faiss", "factory": "IVF4,SQ8", "nprobe": 3, "rescore": 9}
    IndexSettings(**used, keep_vectors=True).check_used()


def test_a_manifest_of_the_future_is_named():
    with pytest.raises(InputError, match=r"m\.json: unknown setting 'colour'"):
        IndexSettings.from_dict({"colour": 1}, place="m.json")
    with pytest.raises(InputError, match=r"m\.json: dtype"):
        IndexSettings.from_dict({"dtype": "int4"}, place="m.json")
