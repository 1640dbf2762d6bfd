"""Contrastive pre-training of a retriever, as a recipe of ``kind = "contrastive"`` says."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from atlas_lm.cli.common import print_json
from atlas_lm.config import load_recipe
from atlas_lm.data.minipedia import prepare_minipedia
from atlas_lm.passages.store import PassageStore
from atlas_lm.retriever import contrastive
from atlas_lm.retriever.contrastive_config import ContrastiveConfig
from atlas_lm.runtime.logs import notice
from atlas_lm.runtime.settings import cache_dir


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """A retriever from passages alone."""

    kind: Literal["contrastive"] = "contrastive"
    """Contrastive pre-training."""
    passages: tuple[str, ...] = ()
    """Passage files (JSONL); Minipedia's where empty."""
    contrastive: ContrastiveConfig = field(default_factory=ContrastiveConfig)


def run_recipe(path: Path, args: argparse.Namespace) -> int:
    """Train the encoder and write it to ``--out``."""
    config = load_recipe(path, args.overrides, PretrainConfig)
    files = [Path(name) for name in config.passages]
    if not files:
        data = cache_dir() / "minipedia"
        prepare_minipedia(data)
        files = [data / "passages.jsonl"]
    store = PassageStore.open(files)
    passages = store.passages(range(len(store)))
    retriever = contrastive.run_recipe(config.contrastive, passages, args.out)
    parameters = sum(weight.numel() for weight in retriever.parameters())
    if args.json:
        print_json({"retriever": args.out, "parameters": parameters, "passages": len(passages)})
    else:
        notice(f"retriever: {args.out} ({parameters:,} parameters)")
    return 0
