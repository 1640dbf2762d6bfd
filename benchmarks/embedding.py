"""Embedding passages: ours against padding everything to the maximum in corpus order, paired.

The reference-like way is what the published code does: passages in corpus order, batches of a
fixed number, every one padded to the longest allowed, fp32. Between the two stands padding each
batch to its own longest. Weights are random, passages are ragged (100 to 170 tokens by default).
Equal precision is the first ratio; ``--bf16`` adds autocast, for processors that have bf16 units.

    python benchmarks/embedding.py --shape minilm --passages 512 --threads 2 --json
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from atlas_lm.retriever import BiEncoder, EncoderSettings
from atlas_lm.retriever.loading import Tower
from atlas_lm.types import Passage

SHAPES = {"minilm": (384, 6, 12, 1536), "bert-base": (768, 12, 12, 3072)}
MAXLENGTH = 200


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    retriever, passages = make(args.shape, args.passages)
    variants: dict[str, Callable[[], Tensor]] = {
        "padded to the maximum, corpus order, fp32": lambda: plain(retriever, passages, MAXLENGTH),
        "padded to the batch's longest, fp32": lambda: plain(retriever, passages, None),
        "ours, fp32": lambda: retriever.embed_corpus(passages),
    }
    if args.bf16:
        variants["ours, bf16 autocast"] = lambda: retriever.embed_corpus(
            passages, autocast=torch.bfloat16
        )
    reference = {name: run() for name, run in variants.items()}
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(args.repeats):
        for name, run in variants.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    base = next(iter(variants))
    rows = [
        {
            "way": name,
            "passages_per_second": round(len(passages) / statistics.median(times), 1),
            "ratio": round(
                statistics.median(a / b for a, b in zip(seconds[base], times, strict=True)), 2
            ),
            "max_abs_difference": float((reference[name] - reference[base]).abs().max()),
        }
        for name, times in seconds.items()
    ]
    report = {"shape": args.shape, "passages": len(passages), "threads": args.threads}
    report |= {"torch": torch.__version__, "results": rows}
    if args.json:
        print(json.dumps(report))
        return
    print("| way | passages/s | ratio | max abs difference |\n| --- | --- | --- | --- |")
    for row in rows:
        print(
            "| {way} | {passages_per_second} | {ratio} | {max_abs_difference:.1e} |".format(**row)
        )


def make(shape: str, count: int) -> tuple[BiEncoder, list[Passage]]:
    """Return an encoder with random weights and ragged passages of made-up words."""
    dim, layers, heads, inner = SHAPES[shape]
    words = [f"w{n}" for n in range(5000)]
    vocabulary = {word: n for n, word in enumerate(["[PAD]", "[UNK]", *words])}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]"
    )
    torch.manual_seed(0)
    encoder = BertModel(
        BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=dim,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=inner,
        ),
        add_pooling_layer=False,
    ).eval()
    settings = EncoderSettings(
        pooling="mean", similarity="dot", query_maxlength=64, passage_maxlength=MAXLENGTH
    )
    draw = random.Random(0)
    passages = [
        Passage(str(n), " ".join(draw.choices(words, k=draw.randint(100, 170))))
        for n in range(count)
    ]
    return BiEncoder(Tower(encoder, tokenizer), settings), passages


@torch.inference_mode()
def plain(retriever: BiEncoder, passages: list[Passage], length: int | None) -> Tensor:
    """Embed in corpus order, 32 at a time, padded to ``length`` or to the batch's longest."""
    embeddings = []
    for start in range(0, len(passages), 32):
        texts = [retriever.passage_text(passage) for passage in passages[start : start + 32]]
        tokens = retriever.passage_tokenizer(
            texts,
            padding="max_length" if length else "longest",
            truncation=True,
            max_length=length or MAXLENGTH,
            return_tensors="pt",
        )
        mask = tokens["attention_mask"]
        hidden = retriever.passage_encoder(
            input_ids=tokens["input_ids"], attention_mask=mask
        ).last_hidden_state
        embeddings.append((hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))
    return torch.cat(embeddings)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=list(SHAPES), default="minilm")
    parser.add_argument("--passages", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
