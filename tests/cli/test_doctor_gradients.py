"""What doctor --gradients makes its toy step of."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from atlas_lm.cli import doctor_gradients, main
from atlas_lm.config import RunConfig, find_recipe, load_recipe
from atlas_lm.runtime.errors import InputError
from tests.cli.running import run_overrides


def test_the_doctor_s_index_is_of_passages_that_the_recipe_lets_be_found(
    tiny, tmp_path, monkeypatch
):
    lines = (tiny.world / "passages.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    old = [{**row, "id": f"old-{row['id']}", "retracted": "yes"} for row in rows]
    file = tmp_path / "passages.jsonl"
    file.write_text("\n".join(map(json.dumps, old + rows)))
    words = [word for word in run_overrides(tiny) if not word.startswith("data.passages")]
    words += [f'data.passages=["{file}"]', 'context.where=not (retracted == "yes")']
    config = load_recipe(find_recipe("tinyworld"), words, RunConfig)
    found = []

    def probe(atlas, batches, *rest, **options):
        found.extend(one.id for one in atlas.store)
        assert len(atlas.retrieve(batches[0]).passages[0]) == 4

    monkeypatch.setattr(doctor_gradients, "probe_update", probe)
    (tmp_path / "scratch").mkdir()
    doctor_gradients.toy_step(config, "cpu", tmp_path / "scratch")
    assert found == [row["id"] for row in rows[:64]]


def test_the_doctor_words_a_mixture_for_the_reader_there_is(tiny, monkeypatch, tmp_path):
    kinds = []

    def examples(config, task, kind="fid"):
        kinds.append(kind)
        raise InputError("enough")

    monkeypatch.setattr(doctor_gradients, "training_examples", examples)
    halves = SimpleNamespace(
        config=SimpleNamespace(task=None),
        reader=SimpleNamespace(settings=SimpleNamespace(kind="causal")),
    )
    halves.to = lambda device: halves
    monkeypatch.setattr(doctor_gradients, "open_halves", lambda config: halves)
    config = load_recipe(find_recipe("tinyworld"), run_overrides(tiny), RunConfig)
    with pytest.raises(InputError, match="enough"):
        doctor_gradients.toy_step(config, "cpu", tmp_path)
    assert kinds == ["causal"]


@pytest.mark.parametrize(
    ("recipe", "kind"), [("contriever", "contrastive"), ("atlas_nano", "nano")]
)
def test_the_doctor_names_recipes_that_make_no_such_step(capsys, recipe, kind):
    assert main(["doctor", "--gradients", recipe]) == 2
    assert f"a recipe of kind '{kind}'" in capsys.readouterr().err
