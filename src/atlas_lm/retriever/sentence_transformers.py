"""The files of a sentence-transformers directory, read as settings. Its library is not needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.files import read_json

MODULES = "modules.json"
_POOLING = {
    "mean": "mean",
    "cls": "cls",
    "lasttoken": "last",
    "mean_sqrt_len_tokens": "sqrt",
}
_LEGACY = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


def sentence_transformers_settings(path: Path) -> tuple[Path, dict[str, Any]]:
    """Return the directory of the weights and the settings that the other files state.

    Similarity is left out where neither a Normalize module nor ``similarity_fn_name`` says it.

    Raises:
        InputError: a module other than Transformer, Pooling and Normalize, or a pooling that is
            none of mean, cls, lasttoken and mean_sqrt_len_tokens.
    """
    place = path / MODULES
    modules = read_json(place, what="the module list of sentence-transformers")
    kinds = [str(module["type"]).rsplit(".", 1)[-1] for module in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise InputError(
            f"{place}: modules {', '.join(kinds)}; only Transformer, Pooling and, where there is "
            "one, Normalize are understood"
        )
    weights = path / modules[0]["path"]
    stated: dict[str, Any] = {
        "pooling": _pooling(path / modules[1]["path"] / "config.json"),
        "normalize": kinds[-1] == "Normalize",
        "passage_template": "{title} {text}",
        **_lengths(weights),
        **_prompts(path / "config_sentence_transformers.json"),
    }
    if stated["normalize"]:
        stated.setdefault("similarity", "cosine")
    return weights, stated


def _pooling(place: Path) -> str:
    config = read_json(place, what="the pooling settings of sentence-transformers")
    modes = config.get("pooling_mode") or [mode for key, mode in _LEGACY.items() if config.get(key)]
    modes = [modes] if isinstance(modes, str) else list(modes) or ["mean"]
    if len(modes) != 1 or modes[0] not in _POOLING:
        raise InputError(f"{place}: pooling {'+'.join(modes)}; known: {', '.join(_POOLING)}")
    if config.get("include_prompt") is False:
        raise InputError(f"{place}: include_prompt=false is not supported")
    return _POOLING[modes[0]]


def _lengths(weights: Path) -> dict[str, Any]:
    """Return the limits: max_seq_length, else the tokenizer's and the position table's smaller."""
    stated: dict[str, Any] = {}
    saved = _optional(weights / "sentence_bert_config.json")
    config = _optional(weights / "config.json")
    tokenizer = _optional(weights / "tokenizer_config.json")
    limits = [config.get("max_position_embeddings"), tokenizer.get("model_max_length")]
    length = saved.get("max_seq_length") or min((int(n) for n in limits if n), default=512)
    stated["query_maxlength"] = stated["passage_maxlength"] = min(int(length), 8192)
    if saved.get("do_lower_case"):
        stated["lowercase"] = True
    return stated


def _prompts(place: Path) -> dict[str, Any]:
    config = _optional(place)
    prompts = config.get("prompts") or {}
    default = prompts.get(config.get("default_prompt_name"), "")
    passage = next((prompts[n] for n in ("document", "passage", "corpus") if n in prompts), default)
    stated = {"query_prompt": prompts.get("query", default), "passage_prompt": passage}
    stated = {name: prompt or "" for name, prompt in stated.items()}
    similarity = config.get("similarity_fn_name")
    if similarity is None:
        return stated
    if similarity not in ("cosine", "dot"):
        raise InputError(f"{place}: similarity_fn_name={similarity!r}; known: cosine, dot")
    return {**stated, "similarity": similarity}


def _optional(place: Path) -> dict[str, Any]:
    return dict(read_json(place, what="settings")) if place.is_file() else {}
