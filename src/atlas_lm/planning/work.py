"""The computations of each ready to be counted: embedding, a training step, generation.

They mirror what the retriever, the reader and the update do, over stock models without weights;
masks come ready-made, for looking into a mask needs numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers.modeling_outputs import BaseModelOutput

from atlas_lm.planning.counting import Cost, by_layers, counted
from atlas_lm.planning.models import PlannedModel
from atlas_lm.planning.request import PlanRequest
from atlas_lm.reader.settings import ReaderSettings
from atlas_lm.runtime.checkpointing import checkpoint_activations_

EMBEDDING_TOKENS = {"cpu": 2048, "cuda": 32768}
"""Tokens embedded at a time; see `retriever.embedding`."""


def _essential(request: PlanRequest) -> PlanRequest:
    """Return the request without what changes nothing about its models: it is counted once."""
    return dataclasses.replace(
        request.without_adapters,
        passages=1,
        index="",
        dtype="fp32",
        index_device="cpu",
        keep_vectors=False,
        world=1,
        machines=1,
        topk=1,
        accumulation_steps=1,
        passage_bytes=1,
    )


@contextmanager
def entered(request: PlanRequest, *, grad: bool) -> Iterator[None]:
    """Make tensors of the CPU without numbers inside; lower matrix products where asked for."""
    lowered = request.precision == "bf16"
    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        torch.autocast("cpu", torch.bfloat16, enabled=lowered),
        torch.set_grad_enabled(grad),
    ):
        yield


def _ids(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.int64)


def _mask(rows: int, length: int) -> Tensor:
    """Return a mask that hides nothing, in the shape attention takes as it stands."""
    return torch.ones((rows, 1, 1, length), dtype=torch.bool)


def _causal_mask(length: int) -> Tensor:
    """Return the mask of a decoder-only model in the same shape."""
    return torch.ones((1, 1, length, length), dtype=torch.bool).tril()


def embedding_cost(request: PlanRequest) -> tuple[Cost, int]:
    """Return the cost of one batch of passages through the retriever, and its passages."""
    return _embedding_cost(_essential(request))


@lru_cache
def _embedding_cost(request: PlanRequest) -> tuple[Cost, int]:
    batch = max(EMBEDDING_TOKENS[request.device] // request.embedded_tokens, 1)
    model = request.retriever

    def count(layers: tuple[int, ...]) -> Cost:
        with entered(request, grad=False):
            module = model.with_layers(layers).built("cpu").eval()
            return counted(lambda: embedded(module, batch, request.embedded_tokens), module)

    return by_layers(count, model.layers), batch


def training_cost(request: PlanRequest, *, backward: bool = True) -> Cost:
    """Return the cost of one micro-batch: both losses forward, then backward; no optimizer.

    What is kept at the end are the gradients; there are none without ``backward``. Reranking is
    counted, search is not. All parameters count as trained.
    """
    return _training_cost(_essential(request), backward)


@lru_cache
def _training_cost(request: PlanRequest, backward: bool) -> Cost:
    reader = request.reader
    assert reader is not None
    stacks = (*reader.layers, *(request.retriever.layers if request.objective != "none" else ()))

    def count(layers: tuple[int, ...]) -> Cost:
        with entered(request, grad=True):
            halves = training_halves(request, layers)
            return counted(lambda: micro_batch(halves, request, backward=backward), halves)

    return by_layers(count, stacks)


def training_halves(request: PlanRequest, layers: tuple[int, ...]) -> nn.ModuleDict:
    """Return reader, query encoder and passage encoder with so many layers, ready to train."""
    reader = request.reader
    assert reader is not None
    n_reader = len(reader.layers)
    halves = nn.ModuleDict({"reader": reader.with_layers(layers[:n_reader]).built("cpu")})
    if request.objective != "none":
        shallow = request.retriever.with_layers(layers[n_reader:])
        halves["query"] = shallow.built("cpu")
        halves["passage"] = halves["query"]
        if request.query_side:
            halves["passage"] = shallow.built("cpu").requires_grad_(False)
    _prepare(halves, request)
    return halves


def generation_cost(request: PlanRequest) -> Cost:
    """Return the cost of reading ``bsz`` queries' passages before the first token is written."""
    return _generation_cost(_essential(request))


@lru_cache
def _generation_cost(request: PlanRequest) -> Cost:
    reader = request.reader
    assert reader is not None

    def count(layers: tuple[int, ...]) -> Cost:
        with entered(request, grad=False):
            module = reader.with_layers(layers).built("cpu").eval()
            return counted(lambda: read(module, request, reader), module)

    return by_layers(count, reader.layers)


def memory_bytes(request: PlanRequest) -> int:
    """Return the bytes of keys and values that ``bsz`` queries hold while an answer is written."""
    reader = request.reader
    assert reader is not None
    config = reader.config
    tokens = request.bsz * request.n_context * request.passage_tokens
    own = request.bsz * request.num_beams * request.target_tokens
    width = 2 if request.precision == "bf16" else 4
    if reader.is_fid:
        per_token = 2 * config.num_heads * config.d_kv * reader.layers[1]
        return int(width * per_token * (tokens + own))
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    prompt = tokens + request.bsz * request.query_tokens
    return int(width * 2 * heads * head * reader.layers[0] * (prompt * request.num_beams + own))


def decoder_bytes(request: PlanRequest) -> int:
    """Return the bytes of weights read for every token that is written."""
    reader = request.reader
    assert reader is not None
    module: Any = reader.built()
    if not reader.is_fid:
        return sum(one.numel() * 4 for one in module.parameters())
    table = module.get_input_embeddings().weight
    own = sum(one.numel() for one in module.get_decoder().parameters() if one is not table)
    return int(4 * (own + module.get_output_embeddings().weight.numel()))


def embedded(module: Any, rows: int, length: int) -> Tensor:
    """Return the embeddings of so many texts of so many tokens."""
    states = module(input_ids=_ids(rows, length), attention_mask=_mask(rows, length))
    return torch.as_tensor(states.last_hidden_state.mean(dim=1, dtype=torch.float32))


def _prepare(halves: nn.ModuleDict, request: PlanRequest) -> None:
    halves.train()
    reader, retriever = request.gradient_checkpointing, request.gradient_checkpointing_retriever
    for name, half in halves.items():
        wanted = reader if name == "reader" or retriever is None else retriever
        if wanted and (name != "passage" or not request.query_side):
            checkpoint_activations_(half)


def micro_batch(halves: nn.ModuleDict, request: PlanRequest, *, backward: bool = True) -> None:
    """Do both losses of a micro-batch and, where asked for, go back through them."""
    reader: Any = halves["reader"]
    assert request.reader is not None
    read = _fid if request.reader.is_fid else _prompt
    loss = read(reader, request)
    if request.objective != "none":
        with torch.no_grad():
            _signals(reader, request)
            if request.n_rerank:
                rows = request.bsz * request.n_rerank
                embedded(halves["passage"], rows, request.embedded_tokens)
        rows = request.bsz * request.n_context
        query = embedded(halves["query"], request.bsz, request.query_tokens)
        passage = embedded(halves["passage"], rows, request.embedded_tokens)
        score = (query[:, None] * passage.view(request.bsz, request.n_context, -1)).sum(-1)
        loss = loss + score.log_softmax(dim=-1).sum()
    if backward:
        torch.autograd.backward(loss)


def _fid(reader: Any, request: PlanRequest) -> Tensor:
    """Return the loss of Fusion-in-Decoder."""
    states = _states(reader, request)
    logits = _decoded(reader, states, request.bsz, request.target_tokens)
    return logits.float().log_softmax(dim=-1)[..., 0].sum()


def _states(reader: Any, request: PlanRequest) -> Tensor:
    """Encode all passages; in the runs that the reader makes of them where memory depends on it."""
    rows, length = request.bsz * request.n_context, request.passage_tokens
    runs = ReaderSettings().encoder_chunks if request.gradient_checkpointing else 1
    states = [
        reader.get_encoder()(
            input_ids=ids, attention_mask=_mask(len(ids), length)
        ).last_hidden_state
        for ids in _ids(rows, length).chunk(runs)
    ]
    return torch.cat(states).reshape(request.bsz, request.n_context * length, -1)


def _decoded(reader: Any, states: Tensor, rows: int, length: int) -> Tensor:
    output = reader(
        encoder_outputs=BaseModelOutput(last_hidden_state=states),
        attention_mask=_mask(len(states), states.shape[1]),
        decoder_input_ids=_ids(rows, length),
        use_cache=False,
    )
    logits: Tensor = output.logits
    return logits


def _prompt(reader: Any, request: PlanRequest) -> Tensor:
    """Return the loss of a decoder-only reader with all passages in one prompt."""
    length = request.n_context * request.passage_tokens + request.query_tokens
    output = _continued(reader, request.bsz, length + request.target_tokens, request)
    return torch.as_tensor(output.logits.float().log_softmax(dim=-1)[..., 0].sum())


def _continued(reader: Any, rows: int, length: int, request: PlanRequest) -> Any:
    return reader(
        input_ids=_ids(rows, length),
        attention_mask=_causal_mask(length),
        use_cache=False,
        logits_to_keep=request.target_tokens,
    )


def _signals(reader: Any, request: PlanRequest) -> None:
    """Do what the objective needs of the reader, without gradient."""
    assert request.reader is not None
    rows, length = request.bsz * request.n_context, request.passage_tokens
    if not request.reader.is_fid:
        length += request.query_tokens + request.target_tokens
        _continued(reader, rows, length, request)
        return
    reader.eval()
    if _drops_out(request.reader):  # the states of the loss carry dropout: encode again
        states = _states(reader, request)
    else:
        states = _states_before(reader, request)
    if request.objective in ("pdist", "emdr2"):
        states = states.view(rows, length, -1)
        _decoded(reader, states, rows, request.target_tokens)
    elif request.objective == "loop":  # keys and values of the states are shared by all rows
        _decoded(reader, states, request.bsz, request.target_tokens)
        _decoded(
            reader,
            states[:, :1].repeat_interleave(request.n_context, 0),
            rows,
            request.target_tokens,
        )
    else:
        _decoded(reader, states, request.bsz, request.target_tokens)
    reader.train()


def _states_before(reader: Any, request: PlanRequest) -> Tensor:
    """Return encoder states that were computed before."""
    shape = (request.bsz, request.n_context * request.passage_tokens, reader.config.d_model)
    return torch.zeros(shape)


def _drops_out(reader: PlannedModel) -> bool:
    return float(getattr(reader.config, "dropout_rate", 0.0)) > 0


def read(module: Any, request: PlanRequest, reader: PlannedModel) -> Any:
    """Read the passages of a batch: what is left are the keys and values to write from."""
    if not reader.is_fid:
        length = request.n_context * request.passage_tokens + request.query_tokens
        return module(
            input_ids=_ids(request.bsz, length),
            attention_mask=_causal_mask(length),
            use_cache=True,
            logits_to_keep=1,
        ).past_key_values
    states = _states(module, request)
    return _cross_projected(module, states)


def _cross_projected(module: Any, states: Tensor) -> list[Tensor]:
    projected: list[Tensor] = []
    for block in module.get_decoder().block:
        attention = block.layer[1].EncDecAttention
        projected += [attention.k(states), attention.v(states)]
    return projected
