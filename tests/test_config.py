from __future__ import annotations

import dataclasses

import pytest

from atlas_lm.config import RunConfig, find_recipe, load_recipe, save_recipe
from atlas_lm.runtime.errors import InputError

OPTIONS = {
    "context": "passages_from n_context retriever_n_context n_rerank where as_of",
    "data": "train mix validation shots shots_seed validation_limit index passages",
    "generation": "max_new_tokens min_new_tokens num_beams length_penalty decoder_prompt allowed",
    "objective": "objective temperature_score temperature_gold likelihood_floor "
    "kl_reduction emdr2_marginal adist_normaliser pool_candidates shuffle_signals",
    "reader": "path settings lora",
    "retriever": "path settings lora",
    "staleness": "refresh_schedule refresh partial background probe_passages probe_every "
    "query_side",
    "task": "task query_template target_template sample_target seed pretext choices",
    "training": "total_steps bsz accumulation_steps parallel fsdp timeout_minutes "
    "reader retriever freeze_retriever_steps "
    "signal_round signal_epochs signal_batches reader_loss_weight retriever_loss_weight "
    "precision seed log_every evaluate_every save_every save_in_background "
    "keep_last best_metric gradient_checkpointing_reader gradient_checkpointing_retriever dropout",
}
"""The frozen list of options: adding one is a deliberate change of this test."""


def test_the_options_are_these():
    tables = {
        field.name: [inner.name for inner in dataclasses.fields(getattr(RunConfig(), field.name))]
        for field in dataclasses.fields(RunConfig)
        if dataclasses.is_dataclass(getattr(RunConfig(), field.name))
    }
    assert tables == {table: names.split() for table, names in OPTIONS.items()}


@pytest.mark.parametrize("name", ["quickstart", "tinyworld", "tinyworld_lessons"])
def test_a_shipped_recipe_loads_and_its_resolved_form_gives_it_back(name, tmp_path):
    recipe = load_recipe(find_recipe(name), [], RunConfig)
    save_recipe(tmp_path / "resolved.toml", recipe)
    assert load_recipe(tmp_path / "resolved.toml", [], RunConfig) == recipe


def test_overrides_take_toml_values_bare_words_and_numbers_where_text_is_meant():
    recipe = load_recipe(
        None,
        [
            "training.total_steps=7",
            "training.reader.lr=0.5",
            "objective.objective=loop",
            "staleness.refresh_schedule=50",
            'data.passages=["a.jsonl", "b.jsonl"]',
        ],
        RunConfig,
    )
    assert recipe.training.total_steps == 7
    assert recipe.training.reader.lr == 0.5
    assert recipe.objective.objective == "loop"
    assert recipe.staleness.refresh_schedule == "50"
    assert recipe.data.passages == ("a.jsonl", "b.jsonl")


def test_a_bad_override_says_how_to_write_one():
    with pytest.raises(InputError, match=r"write it as table\.key=value"):
        load_recipe(None, ["training.total_steps"], RunConfig)
    with pytest.raises(InputError, match="'total_steps' is a value"):
        load_recipe(None, ["training.total_steps=1", "training.total_steps.x=1"], RunConfig)


def test_the_best_by_what_no_evaluation_measures_is_refused_before_the_run():
    options = ["training.best_metric=-reader_loss", "data.validation=dev.jsonl"]
    with pytest.raises(InputError, match=r"'-reader_loss' is of an update.*exact_match"):
        load_recipe(None, [*options, "training.evaluate_every=10"], RunConfig)
    load_recipe(None, options, RunConfig)  # nothing is evaluated: the step's own number
