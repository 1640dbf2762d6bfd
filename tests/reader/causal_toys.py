"""A random two-layer Llama, a byte tokenizer, and the obvious slow way to score a target."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from atlas_lm.reader.causal import CausalReader, CausalSettings
from atlas_lm.types import Passage

PASSAGES = [
    [Passage("1", "Ada wrote it.", "Ada"), Passage("2", "Bo."), Passage("3", "Cy sang well", "Cy")],
    [Passage("4", "Di."), Passage("5", "El ran far away.", "El"), Passage("6", "Fa", "Fay")],
]
QUERY = ["who?", "what did she do"]
TARGET = ["Ada", "she ran"]


def byte_tokenizer(bos: bool = False) -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: i for i, piece in enumerate(["<bos>", "<eos>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if bos:
        from tokenizers.processors import TemplateProcessing

        tokenizer.post_processor = TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", 0)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<eos>"
    )


def tiny_llama(seed: int = 0, layers: int = 2) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=258,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).eval()


def toy_reader(bos: bool = False, **settings) -> CausalReader:
    settings = {"instruction": "Go.\n", "passage_maxlength": 24, **settings}
    return CausalReader(tiny_llama(), byte_tokenizer(bos), CausalSettings(**settings))


def plain_token_log_likelihood(
    reader: CausalReader, passages, query, target, model=None
) -> torch.Tensor:
    """log p of each target token, by one unpacked forward of the plainly concatenated prompt.

    The target is text or token ids; the model the reader's own or another one."""
    words = reader.wording
    prompt = list(words.prefix)
    for passage in passages:
        prompt += words.passage(passage)[0]
    prompt += words.query(query)
    wanted = words.target(target) if isinstance(target, str) else list(target)
    ids = torch.tensor([prompt + wanted])
    with torch.no_grad():
        log_p = (model or reader.model)(input_ids=ids).logits[0].log_softmax(-1)
    return torch.stack([log_p[len(prompt) + i - 1, t] for i, t in enumerate(wanted)])


def fused_token_log_likelihood(reader: CausalReader, passages, query, target) -> torch.Tensor:
    """The same in the fused reading, by loops: each passage's keys and values from its own forward,
    joined, and the question fed behind the longest of them."""
    from transformers import DynamicCache

    words = reader.wording
    prefix = words.prefix
    length, keys = len(prefix), []
    with torch.no_grad():
        for passage in passages:
            ids = torch.tensor([prefix + words.passage(passage)[0]])
            keys.append(reader.model(input_ids=ids, use_cache=True).past_key_values)
        alone = reader.model(input_ids=torch.tensor([prefix]), use_cache=True).past_key_values
        cache = DynamicCache()
        for i, layer in enumerate(alone.layers):
            k = [layer.keys, *(c.layers[i].keys[:, :, length:] for c in keys)]
            v = [layer.values, *(c.layers[i].values[:, :, length:] for c in keys)]
            cache.update(torch.cat(k, 2), torch.cat(v, 2), i)
        seen = cache.get_seq_length()
        asked, wanted = words.query(query), words.target(target)
        ids = torch.tensor([asked + wanted])
        start = max([length, *(c.get_seq_length() for c in keys)])
        n = ids.shape[1]
        mask = torch.cat([torch.ones(n, seen), torch.ones(n, n).tril()], 1).bool()[None, None]
        logits = reader.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=torch.arange(start, start + n)[None],
            past_key_values=cache,
        ).logits
    log_p = logits[0].log_softmax(-1)
    return torch.stack([log_p[len(asked) + i - 1, t] for i, t in enumerate(wanted)])
