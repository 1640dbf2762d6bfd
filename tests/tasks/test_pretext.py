from __future__ import annotations

import json
import re

import pytest

from atlas_lm.passages.store import PassageStore
from atlas_lm.runtime.errors import InputError
from atlas_lm.tasks import (
    Examples,
    PassageExamples,
    PretextConfig,
    TaskConfig,
    find_task,
    make_task,
)
from atlas_lm.tasks.base import with_wording
from atlas_lm.types import Passage

WORDS = [f"w{n}" for n in range(100)]
TEXT = " ".join(WORDS)
SENTINEL = re.compile(r"<extra_id_(\d+)>")


def task(name: str, **pretext):
    return make_task(TaskConfig(task=name, pretext=PretextConfig(**pretext)))


def passage(text=TEXT, **more):
    return Passage("p", text, "Title", **more)


def fill(query: str, target: str) -> str:
    """Return the text that a masked query and its target stand for."""
    parts = SENTINEL.split(target)
    assert parts[0] == ""
    assert parts[-1] == ""
    hidden = dict(zip(parts[1::2], parts[2::2], strict=True))
    return SENTINEL.sub(lambda found: hidden[found[1]].strip(), query)


def test_mlm_hides_spans_and_the_target_says_what_they_were():
    example = task("mlm").of_passage(passage())
    assert fill(example.query, example.target) == TEXT
    assert SENTINEL.findall(example.query) == ["0", "1", "2", "3", "4"]
    assert SENTINEL.findall(example.target) == ["0", "1", "2", "3", "4", "5"]
    hidden = set(example.answers[0].split())
    assert len(hidden) == 15
    assert example.excluded_passage_ids == {"p"}


def test_the_retriever_is_asked_nothing_that_is_hidden():
    for name in ("mlm", "lm", "section"):
        example = task(name).of_passage(passage(section="Section"))
        asked = example.retriever_query
        assert not set(asked.split()) & set(example.answers[0].split())
        assert "extra_id" not in asked


def test_beyond_a_hundred_sentinels_spans_become_longer():
    text = " ".join(f"w{n}" for n in range(3000))
    example = task("mlm").of_passage(passage(text))
    numbers = list(map(int, SENTINEL.findall(example.target)))
    assert numbers == list(range(100))
    assert fill(example.query, example.target) == text


def test_a_sentinel_in_the_corpus_is_left_out():
    example = task("mlm").of_passage(passage(f"<extra_id_7> {TEXT}"))
    assert fill(example.query, example.target) == TEXT


def test_a_decoder_only_reader_gets_numbers_in_brackets():
    config = with_wording(TaskConfig(task="mlm"), find_task("mlm"), "causal")
    example = make_task(config).of_passage(passage())
    assert "[0]" in example.query
    assert "extra_id" not in example.query + example.target
    cited = make_task(config).of_passage(passage(f"[3] {TEXT}"))
    assert cited.answers == example.answers  # no mark but the task's own


@pytest.mark.parametrize("reader", ["fid", "causal"])
@pytest.mark.parametrize("name", ["mlm", "lm", "section"])
def test_a_target_written_word_for_word_is_the_answer(name, reader):
    made = make_task(with_wording(TaskConfig(task=name), find_task(name), reader))
    for draw in range(5):
        example = made.of_passage(passage(), draw)
        assert made.answer(example.target) == example.answers[0]


def test_every_draw_of_a_file_of_passages_is_trained_on(tmp_path):
    path = tmp_path / "passages.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows("A", "B")))
    made = task("mlm", draws=3)
    source = Examples.open(path, made, variants=True)
    assert len(source) == 6
    assert len({example.id for example in source}) == 6
    assert len({example.query for example in source}) > 3
    corpus = PassageExamples(PassageStore.open(path), made)
    assert [example.query for example in source] == [example.query for example in corpus]
    assert all(source[n].excluded_passage_ids == corpus[n].excluded_passage_ids for n in range(6))


def test_lm_shows_a_share_of_the_words_between_the_bounds():
    shown = set()
    for draw in range(50):
        example = task("lm", min_prefix=0.3, max_prefix=0.6).of_passage(passage(), draw)
        prefix = example.query.removesuffix(" <extra_id_0>")
        assert f"{prefix} {example.answers[0]}" == TEXT
        shown.add(len(prefix.split()))
    assert min(shown) >= 30
    assert max(shown) <= 60
    assert len(shown) > 10


def test_section_shows_title_and_section():
    example = task("section").of_passage(passage(section="History"))
    assert example.query == "Title, History <extra_id_0>"
    assert example.target == f"<extra_id_0> {TEXT}"


def test_an_example_depends_on_seed_passage_and_draw_alone():
    assert task("mlm").of_passage(passage()) == task("mlm").of_passage(passage())
    first = task("mlm", draws=2).of_passage(passage(), 0)
    second = task("mlm", draws=2).of_passage(passage(), 1)
    assert (first.id, second.id) == ("p#0", "p#1")
    assert first.query != second.query


def test_too_short_a_text_makes_no_example():
    assert task("mlm").of_passage(passage("word")) is None
    with pytest.raises(InputError, match="f:3: the text has fewer than 2 words; drop the row"):
        task("lm").process({"id": "1", "text": "word"}, place="f:3")


def store(tmp_path, *rows):
    path = tmp_path / "passages.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return PassageStore.open(path)


def rows(*titles, text=TEXT):
    return [{"id": str(n), "text": text, "title": title} for n, title in enumerate(titles)]


def test_examples_of_a_corpus(tmp_path):
    examples = PassageExamples(store(tmp_path, *rows("a", "b", "c")), task("mlm", draws=2))
    assert len(examples) == 6
    assert [example.id for example in examples] == ["0#0", "1#0", "2#0", "0#1", "1#1", "2#1"]
    assert len({example.query for example in examples}) == 6
    assert (
        examples.digest
        != PassageExamples(store(tmp_path, *rows("a", "b", "d")), task("mlm", draws=2)).digest
    )


def test_a_passage_too_short_gives_way_to_the_next(tmp_path):
    corpus = store(tmp_path, *rows("a"), {"id": "s", "text": "x"}, {"id": "t", "text": "a b"})
    assert [example.id for example in PassageExamples(corpus, task("lm"))] == ["0", "t", "t"]


def test_a_corpus_without_text_is_refused(tmp_path):
    corpus = store(tmp_path, {"id": "s", "text": "x"})
    with pytest.raises(InputError, match=r"passages\.jsonl:1: .*fewer than 2 words.*give passages"):
        PassageExamples(corpus, task("lm"))


def test_the_same_document_is_excluded_where_asked(tmp_path):
    corpus = store(tmp_path, *rows("a", "b", "b", "b", "c"))
    alone = PassageExamples(corpus, task("mlm"))
    assert alone[2].excluded_passage_ids == {"2"}
    guarded = PassageExamples(corpus, task("mlm", same_document=True))
    assert guarded[2].excluded_passage_ids == {"1", "2", "3"}
    assert guarded[0].excluded_passage_ids == {"0"}


def test_hidden_rows_make_no_examples(tmp_path):
    import numpy as np

    corpus = store(tmp_path, *rows("a", "b", "c"))
    live = PassageStore.open(corpus.paths, hidden=np.array([1]))
    assert [example.id for example in PassageExamples(live, task("mlm"))] == ["0", "2", "2"]


@pytest.mark.parametrize(
    "pretext",
    [{"density": 0}, {"mean_span": 0.5}, {"min_prefix": 0.8}, {"draws": 0}, {"sentinels": 1}],
)
def test_settings_out_of_range(pretext):
    with pytest.raises(InputError, match=r"task\.pretext\."):
        PretextConfig(**pretext)
