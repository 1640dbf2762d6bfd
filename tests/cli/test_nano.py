from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from atlas_lm.cli import main
from atlas_lm.cli.nano import NanoRun
from atlas_lm.cli.nano_config import NanoConfig
from atlas_lm.config import find_recipe, load_recipe, save_recipe
from atlas_lm.data.lookups import LookupConfig, lookups, split_names
from atlas_lm.data.nano_reader import whole_words
from atlas_lm.evaluation import measure
from atlas_lm.model import Atlas
from atlas_lm.retrieve import ContextConfig
from atlas_lm.retriever import BiEncoder
from atlas_lm.runtime.errors import InputError
from atlas_lm.tasks import TaskConfig, make_task
from atlas_lm.training.lock import run_lock

STAGE = """
[[stages]]
name = "{name}"
data = "{data}"
review = {review}
context = {{ passages_from = "{source}", n_context = 2, retriever_n_context = 2 }}
lookups = {{ count = 40, passages = 2, name_words = 1 }}
training = {{ total_steps = 3, freeze_retriever_steps = 3, bsz = 2, save_every = 1, log_every = 1 }}
"""
HEAD = """
kind = "nano"
passages = ["{passages}"]
train = "{train}"
validation = "{validation}"
measured = 4
[reader]
vocab_size = 300
dim = 16
heads = 2
intermediate = 16
layers = 1
decoder_layers = 1
text_maxlength = 24
target_maxlength = 6
[contrastive]
vocab_size = 200
dim = 16
heads = 2
layers = 0
batch_size = 8
steps = 2
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    rows = [
        {
            "id": f"p{n}",
            "title": f"Town{n}",
            "section": "History",
            "text": f"Town{n} is a town near Castle Rock. It was built by Ann Lee in {1700 + n}.",
            "county": "Kent",
        }
        for n in range(60)
    ]
    questions = [
        {"question": f"when was Town{n} built", "answers": [f"{1700 + n}"]} for n in (1, 2)
    ]
    paths = {name: tmp_path / f"{name}.jsonl" for name in ("passages", "train", "validation")}
    for name, lines in (
        ("passages", rows),
        ("train", [{**row, "id": str(n)} for n, row in enumerate(questions * 3)]),
        ("validation", [{"id": "v", "question": "when was Town5 built", "answers": ["1705"]}]),
    ):
        paths[name].write_text("".join(f"{json.dumps(row)}\n" for row in lines))
    stages = [
        ("copy", "lookups", "file", 0),
        ("gaps", "clozes", "file", 0.5),
        ("ask", "questions", "index", 0.5),
    ]
    text = HEAD.format(**paths) + "".join(
        STAGE.format(name=name, data=data, source=source, review=review)
        for name, data, source, review in stages
    )
    path = tmp_path / "nano.toml"
    path.write_text(text)
    return path


def train(recipe: Path, out: Path, capsys, *options: str) -> dict:
    assert main(["train", str(recipe), "--out", str(out), "--json", *options]) == 0
    said = capsys.readouterr().out
    return json.loads(said) if said else {}


def test_a_stage_asks_again_what_stages_before_it_asked_with_as_many_passages_as_its_own(
    recipe, tmp_path
):
    config = load_recipe(recipe, [], NanoConfig)
    run = NanoRun(tmp_path / "run", config)
    run.start(resume=False)
    names = ("copy", "gaps", "gaps-review", "ask", "ask-review")
    files = {name: (run.out / "data" / f"{name}.jsonl").read_text() for name in names}
    rows = {name: [json.loads(line) for line in text.splitlines()] for name, text in files.items()}
    assert len(rows["gaps-review"]) == 3  # half of three steps of two
    assert {row["id"][:9] for row in rows["gaps-review"]} == {"0-lookup-"}
    assert rows["gaps-review"][0]["query"] not in {row["query"] for row in rows["copy"]}
    assert {row["id"][:8] for row in rows["ask-review"]} == {"0-cloze-"}
    assert "passages" not in rows["ask"][0]
    assert "passages" not in rows["ask-review"][0]
    given = rows["gaps"][0]["passages"]
    assert len(given) == len(rows["gaps-review"][0]["passages"]) == 2
    atlas = Atlas(BiEncoder.from_pretrained(run.retriever), None)
    atlas.open_index(run.out / "index")
    found = atlas.retrieve(rows["gaps"][0]["query"], topk=2).passages[0]
    asked = make_task(TaskConfig(task="base")).process(rows["gaps"][0], place="gaps")
    assert asked.passages == tuple(found)
    findable = dataclasses.replace(config.stages[1], only_findable=True)
    kept = list(run.rows(findable, findable.context))
    assert 0 < len(kept) < len(rows["gaps"])
    answers = [" ".join(p["title"] + " " + p["text"] for p in row["passages"]) for row in kept]
    assert all(row["target"] in text for row, text in zip(kept, answers, strict=True))
    given = findable.context
    questions = dataclasses.replace(config.stages[2], only_findable=True, context=given)
    targets = {row["target"] for row in run.rows(questions, given)}
    assert targets <= {"1701", "1702"}
    mixed = run.stage_config(1, config.stages[1]).data
    assert [(part.task, part.weight) for part in mixed.mix] == [("", 0.5), ("base", 0.5)]


def test_a_second_run_is_refused_before_it_writes(recipe, tmp_path, capsys):
    out = tmp_path / "run"
    with run_lock(out):
        assert main(["train", str(recipe), "--out", str(out)]) == 2
        assert "another run is at work" in capsys.readouterr().err
        assert [file.name for file in out.iterdir()] == [".running"]


def test_a_run_goes_on_with_its_own_recipe_alone(recipe, tmp_path, capsys):
    saved = load_recipe(recipe, ["title='a'"], NanoConfig)
    (tmp_path / "run").mkdir()
    save_recipe(tmp_path / "run" / "recipe.toml", saved)
    begin = ["train", str(recipe), "--out", str(tmp_path / "run"), "--resume"]
    assert main([*begin, "reader.layers=2"]) == 2
    assert "reader.layers was 1 and is 2" in " ".join(capsys.readouterr().err.split())
    assert load_recipe(tmp_path / "run" / "recipe.toml", (), NanoConfig) == saved
    stage, *others = saved.stages
    with pytest.raises(InputError, match=r"resume: stages\.0\.training\.bsz was 2 and is 3"):
        rebatched = dataclasses.replace(stage.training, bsz=3)
        changed = dataclasses.replace(stage, training=rebatched)
        dataclasses.replace(saved, stages=(changed, *others)).require_same(saved)
    logged = dataclasses.replace(stage, training=dataclasses.replace(stage.training, log_every=9))
    dataclasses.replace(saved, title="b", stages=(logged, *others)).require_same(saved)


@pytest.mark.slow
def test_stages_follow_one_another_and_a_stopped_run_goes_on_where_it_was(
    recipe, tmp_path, capsys, monkeypatch
):
    whole = train(recipe, tmp_path / "whole", capsys)
    assert [stage["stage"] for stage in whole["stages"]] == ["copy", "gaps", "ask"]
    assert set(whole["stages"][0]) >= {"copy_exact_match", "questions_exact_match"}
    assert main(["train", str(recipe), "--out", str(tmp_path / "whole")]) == 2
    assert "--resume" in capsys.readouterr().err

    from atlas_lm.training import loop

    real, calls = loop.update, iter(range(100))

    def interrupted(*args, **kwargs):
        if next(calls) == 4:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(loop, "update", interrupted)
    assert main(["train", str(recipe), "--out", str(tmp_path / "cut"), "--json"]) == 130
    monkeypatch.setattr(loop, "update", real)
    resumed = train(recipe, tmp_path / "cut", capsys, "--resume")
    one, other = (
        load_file(Path(result["model"]) / "reader" / "model.safetensors")
        for result in (whole, resumed)
    )
    assert all((one[name] == other[name]).all() for name in one)
    assert whole["stages"] == resumed["stages"]


def test_the_recipe_is_a_curriculum_that_copies_before_it_answers():
    for name in ("atlas_nano", "atlas_nano_gpu"):
        config = load_recipe(find_recipe(name), [], NanoConfig)
        asked = [stage.data for stage in config.stages]
        assert asked == [*["lookups"] * 5, "clozes", "questions"]
        assert 4000 <= config.reader.vocab_size <= 8192


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('name = "gaps"', 'name = "copy"', "used twice"),
        ('name = "gaps"', 'name = "a/b"', "letters, digits"),
        ('passages_from = "file"', 'passages_from = "index"', "lookups come from the file"),
        (
            'data = "questions"\n',
            'data = "questions"\nonly_findable = true\n',
            "only_findable=true needs passages that are known",
        ),
        ("review = 0\n", "review = 1\n", r"review=1.*\[0, 1\)"),
        ("review = 0\n", "review = 0.5\n", "no stage before it asks what it could ask again"),
        ("lookups = {", "lookup = {", r"unknown key 'stages\[0\].lookup'"),
    ],
)
def test_a_wrong_stage_is_refused_by_name(recipe, old, new, named):
    recipe.write_text(recipe.read_text().replace(old, new, 1))
    with pytest.raises(InputError, match=named):
        load_recipe(recipe, [], NanoConfig)


def test_an_unknown_kind_is_refused_with_the_nearest_one(recipe, tmp_path, capsys):
    recipe.write_text(recipe.read_text().replace('kind = "nano"', 'kind = "nono"'))
    assert main(["train", str(recipe), "--out", str(tmp_path / "out")]) == 2
    assert "did you mean 'nano'" in capsys.readouterr().err


def test_the_model_that_ships_finds_and_copies_what_passages_say():
    atlas = Atlas.from_pretrained("package:atlas-lm/atlas-nano")
    names = split_names(whole_words(atlas.reader.tokenizer), words=1)[1]
    rows = lookups(names, LookupConfig(count=40, passages=3, facts=1, seed=7))
    task = make_task(TaskConfig(task="base"))
    examples = [task.process(row, place="made up") for row in rows]
    given = ContextConfig(passages_from="file", n_context=3, retriever_n_context=3)
    config = dataclasses.replace(atlas.config, context=given)
    found = measure(atlas.with_config(config), examples, ks=(1,)).metrics.means()
    assert found["exact_match"] >= 0.6
    assert atlas.config.context.passages_from == "index"
    assert atlas.config.task.query_template == "{question}"


def test_a_model_that_does_not_ship_is_refused_with_the_nearest_name(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["answer", "--model", "package:atlas-lm/atlas-nan", "--index", "x", "who ?"])
    assert "did you mean 'atlas-nano'" in capsys.readouterr().err
