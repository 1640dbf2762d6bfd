from __future__ import annotations

import pytest
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, T5Config
from transformers import T5ForConditionalGeneration as T5

from atlas_lm.runtime.checkpointing import checkpoint_activations_, recomputes_activations

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 20}
MODELS = {
    "bert": lambda: BertModel(BertConfig(**SMALL, intermediate_size=16)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SMALL, intermediate_size=16)),
    "t5": lambda: T5(T5Config(d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)),
}


@pytest.mark.parametrize("kind", MODELS)
def test_it_is_on_from_the_switch_on_and_while_training(kind):
    model = MODELS[kind]().train()
    assert not recomputes_activations(model)
    checkpoint_activations_(model)
    assert recomputes_activations(model)
    assert not recomputes_activations(model.eval())
    checkpoint_activations_(model.train(), enabled=False)
    assert not recomputes_activations(model)
