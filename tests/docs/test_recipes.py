"""docs/recipes.md says what the code reads."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from atlas_lm.config import RunConfig
from atlas_lm.runtime.structure import dotted, unstructure

ROOT = Path(__file__).parents[2]


def script():
    spec = importlib.util.spec_from_file_location("recipe_keys", ROOT / "dev" / "recipe_keys.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_page_is_made_of_the_code_as_it_is():
    keys = script()
    assert keys.PAGE.read_text("utf-8") == keys.page(), "make it anew: python dev/recipe_keys.py"


def test_every_key_of_a_joint_recipe_is_explained():
    tables = {table.name: table.defaults for table in script().tables_of(RunConfig)}
    for key in dotted(unstructure(RunConfig())):
        table, _, name = key.rpartition(".")
        assert key == "data.mix" or name in tables[table]
