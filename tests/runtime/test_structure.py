from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.structure import changed_from_defaults, structure, unstructure


@dataclass(frozen=True, kw_only=True)
class Optim:
    steps: int = 1
    lr: float = 0.1
    schedule: Literal["linear", "cosine"] = "linear"
    path: str | None = None
    pairs: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise InputError(f"optim.steps={self.steps} is negative")


@dataclass(frozen=True, kw_only=True)
class Run:
    optim: Optim = field(default_factory=Optim)
    settings: dict[str, Any] = field(default_factory=dict)


def test_tables_become_dataclasses_and_come_back():
    table = {"optim": {"lr": 1, "pairs": [["q", "a"]], "path": "x"}, "settings": {"any": [1]}}
    run = structure(table, Run, place="r.toml")
    assert run == Run(optim=Optim(lr=1.0, pairs=(("q", "a"),), path="x"), settings={"any": [1]})
    assert structure(unstructure(run), Run, place="again") == run
    assert changed_from_defaults(run) == {
        "optim.lr": 1.0,
        "optim.path": "x",
        "optim.pairs": (("q", "a"),),
        "settings": {"any": [1]},
    }


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"optim": {"step": 1}}, "r.toml: unknown key 'optim.step' .did you mean 'steps'"),
        ({"optim": {"steps": "x"}}, "r.toml: optim.steps: 'x' is not a whole number"),
        ({"optim": {"steps": 1.5}}, "r.toml: optim.steps: 1.5 is not a whole number"),
        ({"optim": {"steps": True}}, "r.toml: optim.steps: True is not a whole number"),
        ({"optim": {"lr": "high"}}, "r.toml: optim.lr: 'high' is not a number"),
        ({"optim": {"schedule": "linea"}}, "'linea' is not one of linear, cosine .did you mean"),
        ({"optim": {"path": 3}}, "r.toml: optim.path: 3 is not a string"),
        ({"optim": {"steps": -1}}, "r.toml: optim.steps=-1 is negative"),
        ({"optim": 1}, "r.toml: optim is a table, not 1"),
    ],
)
def test_a_misfit_is_named_by_its_dotted_key(table, message):
    with pytest.raises(InputError, match=message):
        structure(table, Run, place="r.toml")
