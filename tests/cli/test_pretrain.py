from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from atlas_lm.cli import main
from atlas_lm.cli.pretrain_config import PretrainConfig, SupervisedRun
from atlas_lm.config import find_recipe, load_recipe
from atlas_lm.retriever import BiEncoder
from atlas_lm.retriever.contrastive import train
from atlas_lm.runtime.errors import InputError
from atlas_lm.training.lock import run_lock
from tests.parity.golden import write_bert
from tests.retriever.contrastive_worker import write_corpus, write_questions
from tests.retriever.test_contrastive import PASSAGES

FIT = [
    "fit.batch_size=4",
    "fit.steps=3",
    "fit.warmup_steps=1",
    "fit.save_every=1",
    "fit.log_every=1",
]
LENGTHS = ["encoder.settings.query_maxlength=64", "encoder.settings.passage_maxlength=64"]
PIECES = ["contrastive.query_maxlength=62", "contrastive.key_maxlength=62"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    return write_bert(tmp_path_factory.mktemp("bert") / "bert")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    return {
        "wiki": write_corpus(tmp_path / "wiki.jsonl", 30),
        "web": write_corpus(tmp_path / "web.jsonl", 10, prefix="w"),
        "third": write_corpus(tmp_path / "third.jsonl", 5, prefix="t"),
        "questions": write_questions(tmp_path / "questions.jsonl"),
    }


def corpora(*paths: Path) -> str:
    tables = (f'{{ name = "{path.stem}", passages = ["{path}"] }}' for path in paths)
    return f"mix.corpora=[{', '.join(tables)}]"


def trained(capsys, recipe: str, out: Path, *options: str) -> dict:
    assert main(["train", recipe, "--out", str(out), "--json", *options]) == 0
    return json.loads(capsys.readouterr().out)


def test_contriever_runs_small_over_any_encoder_and_opens_again(bert, files, tmp_path, capsys):
    two = corpora(files["wiki"], files["web"])
    options = [*FIT, *LENGTHS, *PIECES, two, f'encoder.path="{bert}"']
    result = trained(capsys, "contriever", tmp_path / "run", *options, "contrastive.queue_size=8")
    assert result["passages"] == 40
    noted = json.loads((Path(result["retriever"]) / "run.json").read_text())
    assert noted == {"step": result["steps"]}
    opened = BiEncoder.from_pretrained(result["retriever"])
    assert opened.settings.pooling == "mean"
    start = BiEncoder.from_pretrained(bert, settings=opened.settings)
    pairs = zip(opened.parameters(), start.parameters(), strict=True)
    assert any(not torch.equal(one, other) for one, other in pairs)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]
    assert {"loss", "accuracy", "lr", "grad_norm"} <= json.loads(lines[0]).keys()


def test_mcontriever_runs_small_on_several_languages(bert, files, tmp_path, capsys):
    three = corpora(files["wiki"], files["web"], files["third"])
    options = [*FIT, *LENGTHS, *PIECES, three, f'encoder.path="{bert}"']
    options.append("contrastive.queue_size=8")
    assert trained(capsys, "mcontriever", tmp_path / "run", *options)["passages"] == 45


def test_dpr_runs_small_with_two_encoders_and_goes_on_where_it_was(bert, files, tmp_path, capsys):
    options = [*FIT, *LENGTHS, f'encoder.path="{bert}"', f'data="{files["questions"]}"']
    whole = trained(capsys, "dpr", tmp_path / "whole", *options)
    assert whole["questions"] == 13
    assert not BiEncoder.from_pretrained(whole["retriever"]).tied
    trained(capsys, "dpr", tmp_path / "cut", *options)
    newest = sorted((tmp_path / "cut" / "checkpoints").iterdir())[-1]
    newest.rename(tmp_path / "gone")  # killed before its last checkpoint
    again = trained(capsys, str(tmp_path / "cut" / "recipe.toml"), tmp_path / "cut", "--resume")
    one, other = (BiEncoder.from_pretrained(run["retriever"]) for run in (whole, again))
    for left, right in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(left, right)
    lines = (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]
    assert main(["inspect", "run", str(tmp_path / "cut")]) == 0
    assert "loss" in capsys.readouterr().out.lower()
    assert (tmp_path / "cut" / "run_card.html").is_file()


def test_an_encoder_from_scratch_is_streamed_too(files, tmp_path, capsys):
    recipe = tmp_path / "scratch.toml"
    recipe.write_text(
        f'kind = "contrastive"\norder = "stream"\npassages = ["{files["wiki"]}"]\n'
        "[contrastive]\nvocab_size = 120\ndim = 16\nheads = 2\nlayers = 1\nintermediate = 16\n"
    )
    result = trained(capsys, str(recipe), tmp_path / "run", *FIT)
    assert BiEncoder.from_pretrained(result["retriever"]).dim == 16


def test_a_second_run_and_a_changed_recipe_are_refused(bert, files, tmp_path, capsys):
    options = [*FIT, *LENGTHS, f'encoder.path="{bert}"', f'data="{files["questions"]}"']
    trained(capsys, "dpr", tmp_path / "run", *options)
    command = ["train", "dpr", "--out", str(tmp_path / "run"), *options]
    assert main(command) == 2
    assert "--resume" in capsys.readouterr().err
    assert main([*command, "--resume", "fit.seed=5"]) == 2
    assert "resume: fit was" in capsys.readouterr().err


def test_other_data_of_the_same_size_is_refused(bert, files, tmp_path, capsys):
    options = [*FIT, *LENGTHS, f'encoder.path="{bert}"', f'data="{files["questions"]}"']
    options.append(f'passages=["{files["wiki"]}"]')
    trained(capsys, "dpr", tmp_path / "run", *options)
    command = ["train", "dpr", "--out", str(tmp_path / "run"), *options, "--resume"]
    for changed in (files["questions"], files["wiki"]):
        kept = changed.read_text()
        first, *rest = kept.splitlines(keepends=True)
        changed.write_text("".join([*rest, first]))
        assert main(command) == 2
        assert "resume: data was" in capsys.readouterr().err
        changed.write_text(kept)
    assert main(command) == 0


def test_a_recipe_held_in_memory_says_how_it_could_be_resumed(tmp_path, capsys):
    assert main(["train", "contriever_nano", "--out", str(tmp_path / "run"), "--resume"]) == 2
    assert 'order="stream"' in capsys.readouterr().err


def test_a_recipe_held_in_memory_leaves_a_finished_retriever_and_a_run_at_work_alone(
    files, tmp_path, capsys
):
    small = ["vocab_size=60", "dim=16", "batch_size=2", "steps=1", "embedding_init=normal"]
    options = [f"contrastive.{option}" for option in small]
    options.append(f'passages=["{files["wiki"]}"]')
    out = tmp_path / "run"
    with run_lock(out):
        assert main(["train", "contriever_nano", "--out", str(out), *options]) == 2
    assert "another run is at work" in capsys.readouterr().err
    result = trained(capsys, "contriever_nano", out, *options)
    assert result["retriever"] == str(out / "retriever")
    assert BiEncoder.from_pretrained(result["retriever"]).dim == 16
    assert main(["train", str(out / "recipe.toml"), "--out", str(out)]) == 2
    assert "retriever: exists already" in capsys.readouterr().err


def test_trackers_follow_a_retriever_too_and_what_has_no_effect_is_refused(
    bert, files, tmp_path, capsys, monkeypatch
):
    pytest.importorskip("tensorboard")
    options = [*FIT, *LENGTHS, f'encoder.path="{bert}"', f'data="{files["questions"]}"']
    trained(capsys, "dpr", tmp_path / "run", *options, "--tensorboard")
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    out = ["--out", str(tmp_path / "other")]
    for recipe, words, named in (
        ("dpr", ["--profile", "2"], "--profile 2: has no effect"),
        ("contriever_nano", ["--track", "wandb"], "--track wandb: has no effect"),
        ("contriever_nano", ["--profile", "2"], "--profile 2: has no effect"),
        ("contriever_nano", ["--device", "meta"], "--device meta: has no effect"),
        ("contriever_nano", ["--force"], "--force: has no effect"),
        ("dpr", ["--force"], "--force: has no effect"),
    ):
        assert main(["train", recipe, *out, *words, *(options if recipe == "dpr" else [])]) == 2
        assert named in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    for recipe in ("contriever_nano", "atlas_nano"):
        assert main(["train", recipe, *out]) == 2
        assert "2 were started" in capsys.readouterr().err


def test_the_recipes_state_the_papers_hyper_parameters():
    english, many = (
        load_recipe(find_recipe(name), [], PretrainConfig) for name in ("contriever", "mcontriever")
    )
    for config, queue, momentum in ((english, 131072, 0.9995), (many, 32768, 0.999)):
        assert config.contrastive.queue_size == queue
        assert config.contrastive.momentum == momentum
        assert config.contrastive.temperature == 0.05
        assert (config.contrastive.crop_min, config.contrastive.crop_max) == (0.05, 0.5)
        assert config.contrastive.deletion == 0.1
        assert (config.fit.steps, config.fit.learning_rate) == (500_000, 5e-5)
    assert english.fit.batch_size == 2048
    dpr = load_recipe(find_recipe("dpr"), [], SupervisedRun)
    assert (dpr.fit.batch_size, dpr.fit.learning_rate, dpr.fit.dropout) == (128, 1e-5, 0.1)
    assert dpr.supervised.untie
    assert dpr.supervised.hard_negatives == 1


def test_contriever_nano_makes_the_very_same_weights():
    small = ["vocab_size=200", "dim=32", "batch_size=8", "steps=4"]
    overrides = [f"contrastive.{option}" for option in small]
    config = load_recipe(find_recipe("contriever_nano"), [], PretrainConfig)
    assert config.order == "memory"
    stated = config.contrastive
    assert (stated.vocab_size, stated.dim, stated.layers, stated.seed) == (16000, 256, 0, 0)
    assert (stated.batch_size, stated.steps, stated.learning_rate) == (512, 500, 1e-3)
    assert (stated.crop_share, stated.span_share, stated.title_share) == (0.5, 0.3, 0.2)
    assert (stated.deletion, stated.temperature, stated.embedding_init) == (0.1, 0.05, "lsa")
    tiny = load_recipe(find_recipe("contriever_nano"), overrides, PretrainConfig)
    encoder, tokenizer = train(PASSAGES, tiny.contrastive)
    words = encoder.embeddings.word_embeddings.weight.detach()
    assert len(tokenizer) == 135
    assert words.abs().sum().item() == pytest.approx(11.8885965, rel=1e-4)
    expected = [0.00041932, 0.00105751, 0.00011208, -0.00219637, 0.00233239]
    assert words[50, :5].tolist() == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["encoder.path=x"], "order="),
        (["fit.batch_size=7"], 'no effect with order="memory"'),
        (["order=stream", "contrastive.steps=7"], r"contrastive\.steps has no effect.*fit\.steps"),
        (["order=stream", "passages=['a']", "mix.corpora=[{passages=['b']}]"], "both given"),
        (["order=stream", "mix.corpora=[{name='en'}]"], "en names no passage file"),
    ],
)
def test_contradictions_are_refused_by_name(options, named):
    with pytest.raises(InputError, match=named):
        load_recipe(None, options, PretrainConfig)
