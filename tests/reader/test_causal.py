from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BloomConfig,
    Gemma2Config,
    GPT2Config,
    GptOssConfig,
    Lfm2Config,
    MistralConfig,
    OPTConfig,
    Qwen2Config,
    Qwen3Config,
    RecurrentGemmaConfig,
)

from atlas_lm.reader import open_reader
from atlas_lm.reader.causal import CausalReader, CausalSettings
from atlas_lm.runtime.dropout import dropout_is_active
from atlas_lm.runtime.errors import InputError
from atlas_lm.types import Generation

from .causal_toys import (
    PASSAGES,
    QUERY,
    TARGET,
    byte_tokenizer,
    fused_token_log_likelihood,
    plain_token_log_likelihood,
    tiny_llama,
    toy_reader,
)

ALL = frozenset({"passage_log_likelihood", "leave_one_out", "attention_mass"})
READINGS = ("one_prompt", "fused")
SLOW = {"one_prompt": plain_token_log_likelihood, "fused": fused_token_log_likelihood}


def assert_rows(actual, expected):
    """actual [length] holds expected, then zeros."""
    torch.testing.assert_close(actual[: len(expected)], expected, atol=2e-5, rtol=2e-5)
    assert (actual[len(expected) :] == 0).all()


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("n_context", [0, 1, 3])
def test_loss_and_score_equal_the_plain_prompt(reading, n_context):
    reader = toy_reader(reading=reading)
    passages = [given[:n_context] for given in PASSAGES]
    inputs = reader.collate(QUERY, passages)
    expected = [
        SLOW[reading](reader, *row).sum() for row in zip(passages, QUERY, TARGET, strict=True)
    ]
    torch.testing.assert_close(reader.score(inputs, TARGET), torch.stack(expected))
    loss = reader.loss(inputs, TARGET)
    torch.testing.assert_close(loss.total, -sum(expected))
    assert loss.tokens == sum(len(reader.wording.target(target)) for target in TARGET)
    loss.total.backward()
    assert reader.model.model.layers[0].mlp.up_proj.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("shots", [(), (("one?", "two"), ("three?", "four"))])
@pytest.mark.parametrize("bos", [False, True])
def test_signals_equal_the_slow_way(reading, shots, bos):
    reader = toy_reader(bos, reading=reading, demonstrations=shots, tokens_per_forward=150)
    inputs = reader.collate(QUERY, PASSAGES)
    signals = reader.signals(inputs, TARGET, ALL)
    for i, (given, query, target) in enumerate(zip(PASSAGES, QUERY, TARGET, strict=True)):
        for k, passage in enumerate(given):
            alone = plain_token_log_likelihood(reader, [passage], query, target)
            assert_rows(signals.passage_log_likelihood[i, k], alone)
            others = given[:k] + given[k + 1 :]
            assert_rows(signals.leave_one_out[i, k], SLOW[reading](reader, others, query, target))
    assert not signals.passage_log_likelihood.requires_grad


def test_the_readings_agree_on_one_passage_and_differ_on_three():
    prompt, fused = (toy_reader(reading=reading) for reading in READINGS)
    inputs = prompt.collate(QUERY, PASSAGES)
    one = inputs.first(1)
    assert torch.equal(prompt.score(one, TARGET), fused.score(one, TARGET))
    assert not torch.allclose(prompt.score(inputs, TARGET), fused.score(inputs, TARGET))


def test_fused_reading_ignores_the_order_of_passages():
    reader = toy_reader(reading="fused")
    backwards = [given[::-1] for given in PASSAGES]
    torch.testing.assert_close(
        reader.score(reader.collate(QUERY, PASSAGES), TARGET),
        reader.score(reader.collate(QUERY, backwards), TARGET),
    )


@pytest.mark.parametrize("reading", READINGS)
def test_slice_of_a_batch_is_a_batch_of_slices(reading):
    reader = toy_reader(reading=reading)
    both = reader.signals(reader.collate(QUERY, PASSAGES), TARGET, ALL)
    for i in range(2):
        one = reader.signals(
            reader.collate(QUERY[i : i + 1], PASSAGES[i : i + 1]), TARGET[i : i + 1], ALL
        )
        length = one.target_mask.shape[1]
        for name in ("passage_log_likelihood", "leave_one_out"):
            torch.testing.assert_close(getattr(one, name)[0], getattr(both, name)[i, :, :length])
        torch.testing.assert_close(one.attention_mass[0], both.attention_mass[i])


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("n_context", [2, 3])
@pytest.mark.parametrize("measure", [ALL, frozenset(), frozenset({"leave_one_out"})])
@pytest.mark.parametrize("hindrance", ["none", "dropout", "checkpointing", "one by one"])
def test_read_gives_loss_and_signals(reading, n_context, measure, hindrance):
    reader = toy_reader(reading=reading).train()
    inputs = reader.collate(QUERY, PASSAGES)
    expected = reader.signals(inputs, TARGET, measure, logit_temperature=0.5)
    loss = reader.loss(inputs.first(n_context), TARGET).total
    if hindrance == "one by one":
        reader = reader.with_settings(tokens_per_forward=1).train()
    if hindrance == "checkpointing":
        reader.enable_gradient_checkpointing()
    if hindrance == "dropout":
        for layer in reader.model.model.layers:
            layer.self_attn.attention_dropout = 0.5
    actual = reader.read(
        inputs, TARGET, n_context=n_context, measure=measure, logit_temperature=0.5
    )
    for field in dataclasses.fields(expected):
        torch.testing.assert_close(
            getattr(actual.signals, field.name), getattr(expected, field.name)
        )
    assert reader.model.training
    if hindrance == "dropout":
        assert not torch.allclose(actual.loss.total, loss)
        return
    torch.testing.assert_close(actual.loss.total, loss)
    weight = reader.model.model.layers[0].mlp.up_proj.weight
    actual.loss.total.backward()
    shared, weight.grad = weight.grad, None
    loss.backward()
    torch.testing.assert_close(shared, weight.grad)


def test_temperature_divides_the_logits():
    reader = toy_reader()
    inputs = reader.collate(QUERY, PASSAGES)
    flat = reader.signals(inputs, TARGET, ALL, logit_temperature=1e9).passage_log_likelihood
    uniform = -torch.log(torch.tensor(258.0))
    assert torch.allclose(flat[0, 0, 0], uniform, atol=1e-4)


def test_attention_mass_by_hand():
    reader = toy_reader()
    inputs = reader.collate(QUERY[:1], [PASSAGES[0]])
    mass = reader.signals(inputs, TARGET[:1], ALL).attention_mass[0]
    words, model = reader.wording, tiny_llama()
    model.set_attn_implementation("eager")
    spans, prompt = [], list(words.prefix)
    for passage in PASSAGES[0]:
        ids = words.passage(passage)[0]
        spans.append(slice(len(prompt), len(prompt) + len(ids)))
        prompt += ids
    prompt += words.query(QUERY[0])
    target = words.target(TARGET[0])
    values = {}
    for i, layer in enumerate(model.model.layers):
        layer.self_attn.v_proj.register_forward_hook(
            lambda _, __, out, i=i: values.__setitem__(i, out[0].view(-1, 2, 8))
        )
    out = model(input_ids=torch.tensor([prompt + target]), output_attentions=True)
    asking = range(len(prompt) - 1, len(prompt) + len(target) - 1)
    for k, span in enumerate(spans):
        expected = 0.0
        for i, attention in enumerate(out.attentions):
            for head in range(4):
                norm = values[i][span, head // 2].norm(dim=-1)
                for t in asking:
                    expected += float((attention[0, head, t, span] * norm).sum().detach()) / 4 / 2
        assert float(mass[k]) == pytest.approx(expected, rel=1e-4)


def test_attention_share_sums_to_one():
    reader = toy_reader(reading="fused")
    inputs = reader.collate(QUERY, PASSAGES)
    answers = reader.generate(inputs, Generation(max_new_tokens=4))
    share = reader.attention_share(inputs, answers)
    torch.testing.assert_close(share.sum(-1), torch.ones(2))


def test_trainable_layers_leaves_the_topmost_blocks():
    reader = CausalReader(
        tiny_llama(layers=3), byte_tokenizer(), CausalSettings(trainable_layers=1)
    )
    trained = {name for name, p in reader.named_parameters() if p.requires_grad}
    assert trained
    assert all(name.startswith("model.model.layers.2.") for name in trained)
    reader.loss(reader.collate(QUERY, PASSAGES), TARGET).total.backward()
    assert reader.model.model.layers[1].mlp.up_proj.weight.grad is None


@pytest.mark.parametrize("family", [None, GPT2Config, OPTConfig])
def test_dropout_is_set_everywhere(family):
    """Llama has it in attention alone, GPT-2 in modules, OPT as numbers in its layers."""
    shape = {"vocab_size": 258, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = family(**shape, ffn_dim=32, word_embed_proj_dim=32) if family else None
    model = AutoModelForCausalLM.from_config(config) if family else tiny_llama()
    reader = CausalReader(model, byte_tokenizer(), CausalSettings(passage_maxlength=24)).train()
    inputs = reader.collate(QUERY, PASSAGES)
    with torch.no_grad():
        reader.set_dropout(0.0)
        assert not dropout_is_active(reader)
        still = reader.loss(inputs, TARGET).total
        assert torch.equal(still, reader.loss(inputs, TARGET).total)
        reader.set_dropout(0.5)
        assert dropout_is_active(reader)
        assert not torch.equal(reader.loss(inputs, TARGET).total, reader.loss(inputs, TARGET).total)
    assert not dropout_is_active(reader.eval())
    with pytest.raises(InputError, match="probability"):
        reader.set_dropout(1.0)


def test_dropout_kept_as_a_number_is_seen():
    model = AutoModelForCausalLM.from_config(
        OPTConfig(
            vocab_size=258, hidden_size=32, num_hidden_layers=1, num_attention_heads=4,
            ffn_dim=32, word_embed_proj_dim=32, dropout=0.3, attention_dropout=0.0,
        )
    )  # fmt: skip
    assert dropout_is_active(model.train())
    assert not dropout_is_active(model.eval())


def test_gradient_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        reader = toy_reader(reading="fused").train()
        if checkpointing:
            reader.enable_gradient_checkpointing()
        reader.loss(reader.collate(QUERY, PASSAGES), TARGET).total.backward()
        gradients.append(reader.model.model.layers[0].mlp.up_proj.weight.grad)
    torch.testing.assert_close(*gradients)


SMALL = {"vocab_size": 258, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
WIDE = {**SMALL, "intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8}
OTHERS = {
    "gpt2": GPT2Config(vocab_size=258, n_embd=32, n_layer=2, n_head=4, n_positions=256),
    "opt": OPTConfig(**SMALL, ffn_dim=48, max_position_embeddings=256, word_embed_proj_dim=32),
    "qwen3": Qwen3Config(**WIDE),
    "gemma2": Gemma2Config(**WIDE, query_pre_attn_scalar=8),
}


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("name", OTHERS)
def test_other_architectures_read_the_same_way(name, reading):
    torch.manual_seed(0)
    OTHERS[name].eos_token_id = OTHERS[name].pad_token_id = 1
    model = AutoModelForCausalLM.from_config(OTHERS[name]).eval()
    settings = CausalSettings(reading=reading, instruction="Go.\n", passage_maxlength=24)
    reader = CausalReader(model, byte_tokenizer(), settings)
    inputs = reader.collate(QUERY, PASSAGES)
    expected = [
        SLOW[reading](reader, *row).sum() for row in zip(PASSAGES, QUERY, TARGET, strict=True)
    ]
    torch.testing.assert_close(reader.score(inputs, TARGET), torch.stack(expected))
    assert (reader.signals(inputs, TARGET, ALL).attention_mass > 0).all()
    assert len(reader.generate(inputs, Generation(max_new_tokens=2))) == 2


WINDOWED = {
    "mistral": MistralConfig(**WIDE, sliding_window=8),
    "gemma2": Gemma2Config(**WIDE, sliding_window=8, query_pre_attn_scalar=8),
    "qwen2": Qwen2Config(**WIDE, use_sliding_window=True, sliding_window=8, max_window_layers=1),
    "gpt_oss": GptOssConfig(
        **WIDE, sliding_window=8, num_local_experts=2, num_experts_per_tok=1, initializer_range=0.3
    ),
}


@pytest.mark.parametrize("name", WINDOWED)
def test_sliding_windows_and_sinks_are_those_of_the_stock_model(name):
    torch.manual_seed(0)
    WINDOWED[name].eos_token_id = WINDOWED[name].pad_token_id = 1
    model = AutoModelForCausalLM.from_config(WINDOWED[name]).eval()
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.endswith("sinks"):
            torch.nn.init.constant_(parameter, 2.0)
    stock = copy.deepcopy(model)
    settings = CausalSettings(instruction="Go slowly now.\n", passage_maxlength=24)
    reader = CausalReader(model, byte_tokenizer(), settings)
    inputs = reader.collate(QUERY, PASSAGES)
    rows = list(zip(PASSAGES, QUERY, TARGET, strict=True))
    expected = [plain_token_log_likelihood(reader, *row, model=stock).sum() for row in rows]
    torch.testing.assert_close(reader.score(inputs, TARGET), torch.stack(expected))
    fused = reader.with_settings(reading="fused")
    one = inputs.first(1)
    torch.testing.assert_close(fused.score(one, TARGET), reader.score(one, TARGET))
    answers = reader.generate(inputs, Generation(max_new_tokens=12, min_new_tokens=12))
    for (passages, query, _), answer in zip(rows, answers, strict=True):
        each = plain_token_log_likelihood(reader, passages, query, answer.token_ids, model=stock)
        assert answer.log_prob == pytest.approx(float(each.sum()), rel=1e-5)


def test_no_attention_is_recorded_beyond_a_window():
    model = AutoModelForCausalLM.from_config(WINDOWED["mistral"])
    reader = CausalReader(model, byte_tokenizer(), CausalSettings(passage_maxlength=24))
    signals = reader.signals(reader.collate(QUERY, PASSAGES), TARGET, ALL)
    assert not signals.attention_mass.any()


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (Lfm2Config(**SMALL, layer_types=["conv", "full_attention"]), "conv"),
        (RecurrentGemmaConfig(**SMALL, intermediate_size=48, num_key_value_heads=1), "linear"),
    ],
)
def test_layers_that_do_not_attend_are_refused(config, kind):
    with pytest.raises(InputError, match=kind):
        CausalReader(AutoModelForCausalLM.from_config(config), byte_tokenizer())


def test_a_model_whose_attention_cannot_be_masked_is_refused():
    model = AutoModelForCausalLM.from_config(
        BloomConfig(vocab_size=258, hidden_size=32, n_layer=1, n_head=4)
    )
    with pytest.raises(InputError, match="cannot be masked"):
        CausalReader(model, byte_tokenizer())


def test_saved_directory_opens_here_and_with_plain_transformers(tmp_path):
    reader = toy_reader(reading="fused", demonstrations=(("a?", "b"),), trainable_layers=1)
    reader.save_pretrained(tmp_path)
    again = CausalReader.from_pretrained(tmp_path)
    assert again.settings == reader.settings
    inputs = reader.collate(QUERY, PASSAGES)
    assert torch.equal(
        reader.score(inputs, TARGET), again.score(again.collate(QUERY, PASSAGES), TARGET)
    )
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.tensor([AutoTokenizer.from_pretrained(tmp_path)("Go.").input_ids])
    torch.testing.assert_close(plain(ids).logits, reader.model(ids).logits)


def test_a_prompt_beyond_the_models_positions_is_refused():
    model = AutoModelForCausalLM.from_config(
        GPT2Config(vocab_size=258, n_embd=32, n_layer=1, n_head=4, n_positions=60)
    )
    settings = CausalSettings(instruction="Go.\n", passage_maxlength=24, query_format="{query}")
    reader = CausalReader(model, byte_tokenizer(), settings)
    inputs = reader.collate(QUERY, PASSAGES)
    message = r"has 60; lower n_context or reader\.settings\.passage_maxlength"
    with pytest.raises(InputError, match=message):
        reader.score(inputs, TARGET)
    reader.score(inputs.first(2), TARGET)
    fused = reader.with_settings(reading="fused")
    fused.score(inputs, TARGET)
    assert fused.generate(inputs, Generation(max_new_tokens=3))
    with pytest.raises(InputError, match=message):
        fused.generate(inputs, Generation(max_new_tokens=60))


@pytest.mark.parametrize("reading", READINGS)
def test_leave_one_out_is_as_exact_under_autocast(reading):
    reader = toy_reader(reading=reading)
    inputs = reader.collate(QUERY, PASSAGES)
    measure = frozenset({"leave_one_out", "passage_log_likelihood"})
    exact = reader.signals(inputs, TARGET, measure)
    with torch.autocast("cpu", torch.bfloat16):
        apart = reader.signals(inputs, TARGET, measure)
        together = reader.read(inputs, TARGET, n_context=3, measure=measure).signals
    assert torch.equal(apart.leave_one_out, exact.leave_one_out)
    assert torch.equal(together.leave_one_out, exact.leave_one_out)
    assert not torch.equal(together.passage_log_likelihood, exact.passage_log_likelihood)


def test_errors_name_the_remedy(tmp_path):
    reader = toy_reader()
    with pytest.raises(InputError, match="same number"):
        reader.collate(QUERY, [PASSAGES[0], PASSAGES[1][:1]])
    with pytest.raises(InputError, match="T5 sentinel"):
        reader.collate(["question: x answer: <extra_id_0>"], [[]])
    with pytest.raises(InputError, match="passage_maxlength=0"):
        CausalSettings(passage_maxlength=0)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="no weights; expected model"):
        CausalReader.from_pretrained(tmp_path)
    (tmp_path / "reader.json").write_text('{"kind": "causal", "readin": "fused"}')
    with pytest.raises(InputError, match="did you mean 'reading'"):
        CausalSettings.load(tmp_path)
    (tmp_path / "reader.json").write_text('["causal"]')
    for read in (CausalSettings.load, open_reader):
        with pytest.raises(InputError, match=r"reader.json: a JSON object is needed, not a list"):
            read(tmp_path)
