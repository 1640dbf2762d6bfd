"""The workload of the Fusion-in-Decoder benchmarks, and the published code's way of doing it.

T5-small's shape with random weights; 2 queries x 20 passages of 120 to 158 tokens. The
reference-like reader pads every passage to 200 tokens, encodes all of them in one run, keeps the
pads in the decoder's memory, encodes each passage again to score it alone, runs the decoder once
per passage for leave-one-out, and generates with the stock `generate`, which repeats the memory for
every beam.

Every row is timed by the wall clock and, on a CPU, by the processor time of the process: the second
is what counts on a machine that others use too.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import T5Config, T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from atlas_lm.reader.fid import FiDReader
from atlas_lm.reader.inputs import FiDInputs
from atlas_lm.types import Tokens

QUERIES, PASSAGES, PADDED, TARGET = 2, 20, 200, 16
LENGTHS = (120, 158)


class NoTokenizer:
    """Decodes to nothing: the benchmarks work on random ids."""

    pad_token_id, eos_token_id = 0, 1

    def decode(self, *_: Any, **__: Any) -> str:
        return ""


@dataclass(frozen=True)
class Workload:
    """One model, one batch; both readers share the weights."""

    model: Any
    reader: FiDReader
    tokens: Tokens
    labels: Tensor

    @property
    def inputs(self) -> FiDInputs:
        longest = int(self.tokens.mask.sum(-1).max())
        cut = Tokens(self.tokens.ids[..., :longest], self.tokens.mask[..., :longest])
        return FiDInputs.from_tokens(cut)

    @property
    def target(self) -> Tokens:
        return Tokens(self.labels, torch.ones_like(self.labels, dtype=torch.bool))


def make(device: str, passages: int, seed: int = 0) -> Workload:
    """Build the model (T5-small's shape, dropout 0) and a random batch."""
    torch.manual_seed(seed)
    config = T5Config(dropout_rate=0.0, decoder_start_token_id=0)
    model = T5ForConditionalGeneration(config).to(device)
    shape = (QUERIES, passages, PADDED)
    lengths = torch.randint(LENGTHS[0], LENGTHS[1] + 1, shape[:2])
    mask = torch.arange(PADDED) < lengths[..., None]
    ids = torch.randint(3, 32000, shape).where(mask, 0)
    labels = torch.randint(3, 32000, (QUERIES, TARGET))
    return Workload(
        model,
        FiDReader(model, NoTokenizer()),
        Tokens(ids, mask).to(device),
        labels.to(device),
    )


def reference_encode(work: Workload, first: int = 0, last: int | None = None) -> BaseModelOutput:
    """Encode these passages padded to 200 and concatenate their states, pads included."""
    ids, mask = work.tokens.ids[:, first:last], work.tokens.mask[:, first:last]
    states = work.model.encoder(
        input_ids=ids.flatten(0, 1), attention_mask=mask.flatten(0, 1).long()
    ).last_hidden_state
    return BaseModelOutput(last_hidden_state=states.reshape(len(ids), -1, states.shape[-1]))


def reference_loss(work: Workload) -> Tensor:
    """The reader's loss over all passages."""
    output = work.model(
        encoder_outputs=reference_encode(work),
        attention_mask=work.tokens.mask.flatten(1).long(),
        labels=work.labels,
        use_cache=False,
    )
    return output.loss


@torch.no_grad()
def reference_pdist(work: Workload) -> Tensor:
    """log p(a | q, d_k) per token, every passage encoded again and read alone, all in one run."""
    passages = work.tokens.ids.shape[1]
    labels = work.labels.repeat_interleave(passages, 0)
    output = work.model(
        input_ids=work.tokens.ids.flatten(0, 1),
        attention_mask=work.tokens.mask.flatten(0, 1).long(),
        labels=labels,
        use_cache=False,
    )
    return _log_likelihood(output.logits, labels).view(len(work.labels), passages, -1)


@torch.no_grad()
def reference_loop(work: Workload, encoded: BaseModelOutput) -> Tensor:
    """log p(a | q, all but d_k) per token: one decoder run for each passage left out."""
    columns = []
    for passage in range(work.tokens.ids.shape[1]):
        mask = work.tokens.mask.clone()
        mask[:, passage] = False
        output = work.model(
            encoder_outputs=encoded,
            attention_mask=mask.flatten(1).long(),
            labels=work.labels,
            use_cache=False,
        )
        columns.append(_log_likelihood(output.logits, work.labels))
    return torch.stack(columns, 1)


def reference_generate(work: Workload, beams: int, new_tokens: int) -> Tensor:
    """Stock generation over the padded states."""
    with torch.no_grad():
        return work.model.generate(
            encoder_outputs=reference_encode(work),
            attention_mask=work.tokens.mask.flatten(1).long(),
            num_beams=beams,
            do_sample=False,
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
        )


def _log_likelihood(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.float().log_softmax(-1).gather(-1, labels[..., None]).squeeze(-1)


def paired(
    rows: Mapping[str, Callable[[], Any]], repeats: int, device: str
) -> dict[str, dict[str, float]]:
    """Time every row ``repeats`` times, taking turns; the first row is the base of the ratios."""
    wall: dict[str, list[float]] = {name: [] for name in rows}
    processor: dict[str, list[float]] = {name: [] for name in rows}
    for turn in range(repeats + 1):
        for name, work in rows.items():
            _wait(device)
            start = time.perf_counter(), time.process_time()
            work()
            _wait(device)
            if turn:
                wall[name].append(time.perf_counter() - start[0])
                processor[name].append(time.process_time() - start[1])
    first = next(iter(rows))
    return {
        name: {
            "seconds": statistics.median(wall[name]),
            "ratio": _ratio(wall[first], wall[name]),
            "cpu_seconds": statistics.median(processor[name]),
            "cpu_ratio": _ratio(processor[first], processor[name]),
        }
        for name in rows
    }


def _ratio(base: list[float], times: list[float]) -> float:
    """The median over turns of how much faster than the base."""
    return statistics.median(b / t for b, t in zip(base, times, strict=True))


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def autocast(precision: str, device: str) -> Any:
    """bfloat16 autocast, or nothing for float32."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(torch.device(device).type, torch.bfloat16)


def arguments(description: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--passages", type=int, default=PASSAGES)
    parser.add_argument(
        "--bf16", action="store_true", help="add bfloat16 autocast rows (needs hardware for it)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    return chosen


def report(chosen: argparse.Namespace, tables: Mapping[str, Mapping[str, Any]]) -> None:
    """Print the tables as JSON or as text."""
    about = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "device": chosen.device,
        "threads": chosen.threads,
        "repeats": chosen.repeats,
        "passages": chosen.passages,
    }
    if chosen.json:
        print(json.dumps({"about": about, "tables": tables}))
        return
    print(about)
    for title, rows in tables.items():
        print(f"\n{title}")
        for name, row in rows.items():
            print("  " + f"{name:58s}" + "  ".join(f"{k} {v:.3g}" for k, v in row.items()))
