from __future__ import annotations

import pytest

from atlas_lm.index import open_index, refresh
from atlas_lm.index.stack import stack
from atlas_lm.runtime.errors import InputError
from tests.index.conftest import make_fingerprint
from tests.index.keeping import built, embed, write


@pytest.fixture
def members(tmp_path):
    return [
        built(tmp_path / name, [write(tmp_path / f"{name}.jsonl", {name: f"text of {name}"})])
        for name in ("old", "young")
    ]


def test_indexes_of_different_encoders_are_not_searched_as_one(tmp_path, members):
    out = tmp_path / "stack"
    stack(members, out)
    refresh(members[1], embed, fingerprint=make_fingerprint(encoder="e2"))
    for read in (lambda: open_index(members), lambda: open_index(out), lambda: stack(members, out)):
        with pytest.raises(InputError, match=r"cannot be searched as one: .*encoder='e2'"):
            read()
    refresh(members[0], embed, fingerprint=make_fingerprint(encoder="e2"))
    index, _ = open_index(out)
    assert index.fingerprint.encoder == "e2"
