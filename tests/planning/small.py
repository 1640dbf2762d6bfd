"""A plan whose models are small enough to be run for real."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from transformers import BertConfig, LlamaConfig, T5Config

from atlas_lm.objectives import ObjectiveConfig, make_objective
from atlas_lm.planning import PlannedModel, PlanRequest
from atlas_lm.reader.fid import FiDReader
from atlas_lm.reader.inputs import FiDInputs
from atlas_lm.retriever.embedding import encode
from atlas_lm.retriever.settings import EncoderSettings
from atlas_lm.runtime.checkpointing import checkpoint_activations_
from atlas_lm.training.optim import HalfOptimizer, OptimConfig
from atlas_lm.types import Tokens

ENCODING = EncoderSettings(pooling="mean", similarity="dot")


def fid(layers: int = 3, width: int = 64, **more: Any) -> PlannedModel:
    config = T5Config(
        d_model=width,
        d_ff=2 * width,
        num_layers=layers,
        num_decoder_layers=layers + 1,
        num_heads=4,
        d_kv=width // 4,
        vocab_size=500,
        decoder_start_token_id=0,
        **more,
    )
    return PlannedModel(name=f"fid {layers} {width} {more}", config=config, role="reader")


def causal(layers: int = 4) -> PlannedModel:
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_hidden_layers=layers,
        vocab_size=500,
    )
    return PlannedModel(name=f"causal {layers}", config=config, role="reader")


def encoder(layers: int = 4, width: int = 64) -> PlannedModel:
    config = BertConfig(
        hidden_size=width,
        intermediate_size=2 * width,
        num_attention_heads=4,
        num_hidden_layers=layers,
        vocab_size=500,
    )
    return PlannedModel(name=f"encoder {layers} {width}", config=config, role="retriever")


def request(**fields: Any) -> PlanRequest:
    base = PlanRequest(
        passages=1000,
        dim=64,
        retriever=encoder(2),
        reader=fid(1),
        n_context=4,
        passage_tokens=50,
        query_tokens=10,
        target_tokens=6,
        bsz=2,
        index="fp32",
    )
    return dataclasses.replace(base, **fields)


class RealStep:
    """One training step by the reader, encoder, objective and optimizers that training uses."""

    def __init__(self, plan: PlanRequest) -> None:
        torch.manual_seed(0)
        self.plan = plan
        assert plan.reader is not None
        self.reader = FiDReader(plan.reader.built("cpu"), None)
        self.encoder = plan.retriever.built("cpu")
        for half in (self.reader, self.encoder):
            for parameter in half.parameters():
                torch.nn.init.normal_(parameter, std=0.02)
            half.train()
        if plan.gradient_checkpointing:
            self.reader.enable_gradient_checkpointing()
            checkpoint_activations_(self.encoder)
        self.optimizers = [
            HalfOptimizer(half, OptimConfig(), total_steps=10)
            for half in (self.reader, self.encoder)
        ]
        self.objective = make_objective(ObjectiveConfig(objective=plan.objective))

    def losses(self) -> None:
        """Forward and backward."""
        plan = self.plan
        rows = plan.bsz * plan.n_context
        shape = (plan.bsz, plan.n_context, plan.passage_tokens)
        reading = self.reader.read(
            FiDInputs.from_tokens(_tokens(*shape)),
            _tokens(plan.bsz, plan.target_tokens),
            n_context=plan.n_context,
            measure=frozenset({self.objective.needs}),
        )
        query = encode(self.encoder, _tokens(plan.bsz, plan.query_tokens), ENCODING)
        passage = encode(self.encoder, _tokens(rows, plan.passage_tokens), ENCODING)
        score = (query[:, None] * passage.view(plan.bsz, plan.n_context, -1)).sum(-1)
        loss = self.objective.loss(score / plan.dim**0.5, reading.signals)
        (reading.loss.mean + loss.mean()).backward()

    def update(self) -> None:
        """The optimizers' part."""
        for half in self.optimizers:
            half.clip_gradients()
            half.update(0)
            half.drop_gradients()

    def __call__(self) -> None:
        self.losses()
        self.update()


def _tokens(*shape: int) -> Tokens:
    return Tokens(torch.randint(3, 500, shape), torch.ones(shape, dtype=torch.bool))
