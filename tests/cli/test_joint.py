from __future__ import annotations

from types import SimpleNamespace

import pytest

from atlas_lm.cli import joint
from atlas_lm.config import DataConfig, RunConfig
from atlas_lm.training import Outcome


@pytest.mark.parametrize("named", ["", "elsewhere", "run/index"])
def test_only_the_index_that_a_run_began_with_is_set_aside(tmp_path, monkeypatch, named):
    out = tmp_path / "run"
    (out / "index").mkdir(parents=True)
    (out / "index" / "before").touch()
    monkeypatch.setattr(joint, "save_model", lambda *_: None)
    monkeypatch.setattr(joint, "build_index", lambda *_, step: None)
    atlas = SimpleNamespace(index=True, store=True, open_index=lambda *_, shared: None)
    config = RunConfig(data=DataConfig(index=str(tmp_path / named) if named else ""))
    joint._finish(atlas, config, out, Outcome(4, True, out))
    assert (out / joint.START_INDEX / "before").is_file() == (named != "elsewhere")
    first = joint.from_the_first_index(config, out).data.index
    named = str(tmp_path / named) if named else ""
    assert first == (str(out / joint.START_INDEX) if named.endswith("run/index") else named)
