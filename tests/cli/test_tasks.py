"""Every task through the command line, as a user would type it, on a made-up world."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from atlas_lm.cli import main
from atlas_lm.cli.examples import check_sentinels, training_examples
from atlas_lm.config import RunConfig, load_recipe
from atlas_lm.data.tinymodels import tiny_reader
from atlas_lm.reader import open_reader
from atlas_lm.runtime.errors import InputError
from tests.cli.running import said, write

SENTINELS = [f"<extra_id_{n}>" for n in range(100)]


def refused(capsys, *words) -> str:
    assert main(list(map(str, words))) == 2
    return capsys.readouterr().err


@pytest.fixture(scope="module")
def reader(tiny, tmp_path_factory) -> Path:
    """A reader whose vocabulary has sentinels, labels, letters and the words of the world."""
    rows = list(map(json.loads, (tiny.world / "passages.jsonl").read_text().splitlines()))
    words = [word for row in rows for word in (row["title"], *row["text"].split())]
    path = tmp_path_factory.mktemp("reader") / "reader"
    letters = [*"ABCD", "(A)", "(B)", "(C)", "(D)"]
    labels = ["true", "false", "maybe", "SUPPORTS", "REFUTES"]
    tiny_reader([*SENTINELS, *letters, *labels, *words], seed=0).save_pretrained(path)
    return path


def recipe(tiny, reader, *words) -> list[str]:
    return [
        *("train", "tinyworld"),
        f"reader.path={reader}",
        f"retriever.path={tiny.drawn}/retriever",
        "training.total_steps=3",
        "training.bsz=4",
        "training.log_every=1",
        "training.retriever.warmup_steps=1",
        *words,
    ]


def logged(out: Path) -> list[dict]:
    return list(map(json.loads, (out / "metrics.jsonl").read_text().splitlines()))


PLAIN = ("task.query_template={text}", "task.target_template={target}")


@pytest.mark.parametrize("task", ["mlm", "lm", "section"])
def test_a_pretext_task_trains_over_the_passages(tiny, reader, tmp_path, task, capsys):
    out = tmp_path / "run"
    words = recipe(
        *(tiny, reader, "--out", out, f"task.task={task}", "task.pretext.overlap=1"),
        *PLAIN,
        f'data.passages=["{tiny.world}/passages.jsonl"]',
    )
    assert said(capsys, *words)["finished"]
    steps = [line for line in logged(out) if "reader_loss" in line]
    assert len(steps) == 3
    assert all(0 <= line["leaked"] <= 1 for line in steps)
    assert all(line["retriever_loss"] > 0 for line in steps)


@pytest.mark.parametrize("task", ["mlm", "lm", "section"])
def test_a_pretext_task_trains_in_closed_book(tiny, reader, tmp_path, task, capsys):
    words = recipe(
        *(tiny, reader, "--out", tmp_path / "run", f"task.task={task}"),
        *PLAIN,
        *("retriever.path=", "context.passages_from=none"),
        f'data.passages=["{tiny.world}/passages.jsonl"]',
    )
    assert said(capsys, *words)["finished"]


@pytest.fixture(scope="module")
def facts(tiny) -> list[dict]:
    """The passages of the world: id, title (a person) and text (a relation and its value)."""
    return list(map(json.loads, (tiny.world / "passages.jsonl").read_text().splitlines()))


@pytest.fixture(scope="module")
def files(facts, tmp_path_factory) -> Path:
    """One data file of each task, twelve rows each."""
    folder = tmp_path_factory.mktemp("files")
    fever, choices, kilt, given = [], [], [], []
    for number, fact in enumerate(facts[:12]):
        value, others = fact["text"].split()[1], [f["text"].split()[1] for f in facts[20:23]]
        true = number % 2 == 0
        claim = f"{fact['title']} {fact['text'] if true else others[0]}"
        label = "SUPPORTS" if true else "REFUTES"
        fever.append({"claim": claim, "label": label, "gold_passage_ids": [fact["id"]]})
        options = dict(zip("ABCD", [value, *others], strict=True))
        choices.append({"question": fact["title"], "options": options, "answer": "A"})
        page = [{"wikipedia_id": fact["title"], "title": fact["title"]}]
        output = [{"answer": value, "provenance": page}]
        kilt.append({"id": str(number), "input": f"{fact['title']} [SEP] x", "output": output})
        given.append({"question": claim, "answers": [value], "passages": [fact] * 4})
    write(folder / "fever.jsonl", *fever)
    write(folder / "multiple_choice.jsonl", *choices)
    write(folder / "kilt.jsonl", *kilt)
    write(folder / "qa.jsonl", *given)
    return folder


@pytest.fixture(scope="module")
def pages(tiny, facts, tmp_path_factory) -> Path:
    """An index over the same passages, each saying which page it is of."""
    folder = tmp_path_factory.mktemp("pages")
    write(folder / "passages.jsonl", *[{**fact, "wikipedia_id": fact["title"]} for fact in facts])
    words = ["index", "build", "--passages", folder / "passages.jsonl", "--out", folder / "index"]
    assert main([*map(str, words), "--retriever", str(tiny.drawn / "retriever")]) == 0
    return folder / "index"


def evaluate(tiny, reader, *words) -> list:
    return ["evaluate", "--reader", reader, "--retriever", tiny.drawn / "retriever", *words]


PROMPT = ("--set", "task.query_template={claim}", "--set", "task.target_template={answer}")


@pytest.mark.parametrize("task", ["fever", "fever2"])
def test_fever_prints_accuracy(tiny, reader, files, task, capsys):
    data = ("--index", tiny.index, "--data", files / "fever.jsonl", "--task", task)
    found = said(capsys, *evaluate(tiny, reader, *data, *PROMPT))
    assert found["accuracy"]["n"] == 12
    assert {"gold_recall_at_1", "gold_mrr"} <= set(found)
    assert "exact_match" not in found
    assert "recall_at_1" not in found


def test_multiple_choice_prints_accuracy_and_debiased_accuracy(tiny, reader, files, capsys):
    data = ("--index", tiny.index, "--data", files / "multiple_choice.jsonl")
    words = evaluate(tiny, reader, *data, "--task", "multiple_choice")
    assert "debiased_accuracy" not in said(capsys, *words)
    found = said(capsys, *words, "--set", "task.choices.debias=cyclic")
    assert {"accuracy", "debiased_accuracy"} <= set(found)
    assert main(list(map(str, words))) == 0
    assert "accuracy" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("task", "metric"),
    [("kilt_trex", "accuracy"), ("kilt_nq", "exact_match"), ("kilt_eli5", "rouge_l")],
)
def test_kilt_prints_answers_provenance_and_kilt_scores(
    tiny, reader, files, pages, task, metric, capsys
):
    data = ("--index", pages, "--data", files / "kilt.jsonl", "--task", task)
    found = said(capsys, *evaluate(tiny, reader, *data))
    assert {metric, f"kilt_{metric}", "r_precision", "page_recall_at_5"} <= set(found)


def test_given_passages_and_closed_book_for_every_task(tiny, reader, files, capsys):
    words = ("evaluate", "--reader", reader, "--data", files / "qa.jsonl", "--n-context", 4)
    assert said(capsys, *words, "--passages-from", "file")["recall_at_1"]["mean"] == 1.0
    for task in ("fever", "multiple_choice", "kilt"):
        data = ("--data", files / f"{task}.jsonl", "--task", task, "--passages-from", "none")
        assert said(capsys, "evaluate", "--reader", reader, *data)
    rows = [{"id": "1", "text": "a b c d", "title": "t"}]
    for task in ("mlm", "lm", "section"):
        data = write(files / f"{task}.jsonl", *rows)
        words = ("--data", data, "--task", task, "--passages-from", "none")
        assert "rouge_l" in said(capsys, "evaluate", "--reader", reader, *words)


def test_the_leak_rate_of_a_guarded_pretext_task_is_printed(tiny, reader, capsys):
    data = ("--index", tiny.index, "--data", tiny.world / "passages.jsonl", "--task", "lm")
    words = evaluate(tiny, reader, *data, "--limit", 8, "--n-context", 4, "--recall-at", "4")
    assert "leaked" not in said(capsys, *words)
    found = said(capsys, *words, "--set", "task.pretext.overlap=1")
    assert found["leaked"]["n"] == 8


def test_answers_are_held_to_a_file(tiny, reader, files, capsys):
    allowed = files / "allowed.txt"
    allowed.write_text("true\nfalse\n")
    predictions = files / "predictions.jsonl"
    data = ("--data", files / "qa.jsonl", "--passages-from", "none", "--predictions", predictions)
    said(capsys, "evaluate", "--reader", reader, *data, "--set", f"generation.allowed={allowed}")
    answers = {json.loads(line)["answer"] for line in predictions.read_text().splitlines()}
    assert answers <= {"true", "false"}


MIX = """
[[data.mix]]
task = "mlm"
weight = 3
[[data.mix]]
task = "fever"
path = "{files}/fever.jsonl"
weight = 1
[[data.mix]]
path = "{files}/qa.jsonl"
weight = 1
shots = 5
"""


def test_a_recipe_mixes_tasks(tiny, reader, files, tmp_path, capsys):
    mix = tmp_path / "mix.toml"
    mix.write_text(MIX.format(files=files) + '[task]\nquery_template = "{question}"\n')
    words = recipe(tiny, reader, "--out", tmp_path / "run", f"data.index={tiny.index}")
    words[1] = mix
    assert said(capsys, *words, "training.total_steps=4")["finished"]
    again = said(capsys, *words, "training.total_steps=4", "--resume")
    assert again["step"] == 4
    out = tmp_path / "run" / "recipe.toml"
    assert out.read_text().count("[[data.mix]]") == 3


CHOICE = {"question": "q", "options": ["a", "b"], "answer": "A"}


@pytest.mark.parametrize(
    ("task", "row", "message"),
    [
        ("fever", {"claim": "c", "label": "SUPORTS"}, r"1: label 'SUPORTS'.*mean 'SUPPORTS'"),
        ("fever", {"claim": "c"}, "1: missing field 'label'"),
        ("qa", {"question": "q"}, "1: missing field 'answers'"),
        ("kilt_nq", {"input": "q", "output": []}, "1: missing field 'output'"),
        ("multiple_choice", {**CHOICE, "options": None}, "1: missing field 'options'"),
        ("multiple_choice", {**CHOICE, "options": ["o"] * 27}, "more than 26 options"),
        ("multiple_choice", {**CHOICE, "answer": "C"}, "the options are A to B"),
        ("mlm", {"text": "word"}, "1: the text has fewer than 2 words"),
    ],
)
def test_wrong_rows_are_named_with_the_remedy(reader, tmp_path, task, row, message, capsys):
    data = write(tmp_path / "rows.jsonl", row)
    words = ("evaluate", "--reader", reader, "--data", data, "--task", task)
    said = refused(capsys, *words, "--passages-from", "none")
    assert re.search(r"rows\.jsonl:" + message if message[0] == "1" else message, said)


def test_an_unknown_task_gets_the_nearest_name(reader, tmp_path, capsys):
    words = ("evaluate", "--reader", reader, "--data", tmp_path, "--task", "kilt_hotpot")
    said = refused(capsys, *words, "--passages-from", "none")
    assert "unknown task 'kilt_hotpot' (did you mean 'kilt_hotpotqa'?)" in said


def test_provenance_that_is_not_in_the_corpus(tiny, reader, files, pages, tmp_path, capsys):
    row = {"input": "q", "output": [{"answer": "a", "provenance": [{"wikipedia_id": "999"}]}]}
    data = write(tmp_path / "rows.jsonl", row)
    words = evaluate(tiny, reader, "--index", pages, "--data", data, "--task", "kilt_nq")
    said = refused(capsys, *words)
    assert "provenance wikipedia_id '999' of example '1' is not in" in said
    assert "search the corpus that the examples were made for" in said
    words = evaluate(tiny, reader, "--index", tiny.index, "--data", data, "--task", "kilt_nq")
    assert "has no wikipedia_id; make passages with atlas-lm prepare wikipedia" in refused(
        capsys, *words
    )
    good = json.loads((files / "fever.jsonl").read_text().splitlines()[0])
    data = write(tmp_path / "rows.jsonl", {**good, "gold_passage_ids": ["nowhere"]})
    words = evaluate(tiny, reader, "--index", tiny.index, "--data", data, "--task", "fever")
    assert "gold_passage_ids 'nowhere' of example '1' is not in" in refused(capsys, *words, *PROMPT)
    rows = ({**good, "gold_passage_ids": ["nowhere"]}, good)
    words[words.index(data)] = write(tmp_path / "both.jsonl", *rows)
    assert main(list(map(str, (*words, *PROMPT)))) == 0
    assert "nor are 0 others of 2: they cannot be found" in capsys.readouterr().err


def test_a_corpus_too_small_for_the_passages_asked(tiny, reader, facts, tmp_path, capsys):
    passages = write(tmp_path / "passages.jsonl", *facts[:4])
    words = recipe(tiny, reader, "--out", tmp_path / "run", "task.task=mlm")
    said = refused(
        *(capsys, *words, f'data.passages=["{passages}"]', *PLAIN),
        *("context.n_context=2", "context.retriever_n_context=4"),
    )
    assert (
        "context.retriever_n_context=4 distinct passages are asked for each query besides" in said
    )
    assert "to at most 3" in said


def test_a_pretext_task_without_passages(tiny, reader, tmp_path, capsys):
    words = recipe(tiny, reader, "--out", tmp_path / "run", "task.task=mlm", *PLAIN)
    assert "task 'mlm' makes its examples of passages; give data.passages" in refused(
        capsys, *words
    )


def test_masking_for_a_reader_without_sentinels(tiny, tmp_path, capsys):
    words = recipe(tiny, tiny.drawn / "reader", "--out", tmp_path / "run", "task.task=mlm", *PLAIN)
    said = refused(capsys, *words, f"data.index={tiny.index}")
    assert "hides spans behind <extra_id_0>, which the vocabulary of" in said
    assert "task.pretext.sentinel" in said


def test_masking_for_a_reader_with_fewer_sentinels_says_how_many(tmp_path):
    tiny_reader([*SENTINELS[:3], "w"], seed=0).save_pretrained(tmp_path / "reader")
    words = [f"reader.path={tmp_path}/reader", "task.task=mlm"]
    reader = open_reader(tmp_path / "reader")
    config = load_recipe(None, words, RunConfig)
    with pytest.raises(InputError, match=r"to <extra_id_99>, but .* <extra_id_2>; .*sentinels=3$"):
        check_sentinels(config, config.task, reader)
    enough = load_recipe(None, [*words, "task.pretext.sentinels=3"], RunConfig)
    check_sentinels(enough, enough.task, reader)


def test_few_shots_are_questions_each_in_all_its_orders(tiny, reader, files):
    words = [
        *(f"data.train={files}/multiple_choice.jsonl", "data.shots=3", "task.task=multiple_choice"),
        "task.choices.train_permutations=cyclic",
    ]
    config = load_recipe(None, words, RunConfig)
    examples = training_examples(config, config.task)
    assert len(examples) == 12
    assert len({example.id for example in examples}) == 3
    assert len({example.query for example in examples}) == 12


def test_two_sources_of_one_task_have_ids_of_their_own(files):
    path = f"{files}/qa.jsonl"
    mix = f'data.mix=[{{path="{path}"}}, {{task="qa", path="{path}"}}]'
    config = load_recipe(None, [mix], RunConfig)
    examples = training_examples(config, config.task)
    assert len({example.id for example in examples}) == len(examples)
    assert list(examples.shares) == ["qa-1", "qa-2"]


def test_the_documents_of_a_file_of_passages_are_not_known(tiny):
    words = [f"data.train={tiny.world}/passages.jsonl", "task.task=lm"]
    config = load_recipe(None, [*words, "task.pretext.same_document=true"], RunConfig)
    with pytest.raises(InputError, match=r"same_document has no effect .* data\.passages"):
        training_examples(config, config.task)


def test_a_mixture_beside_a_single_file(tiny, reader, files, tmp_path, capsys):
    words = recipe(tiny, reader, "--out", tmp_path / "run", f"data.train={files}/qa.jsonl")
    said = refused(capsys, *words, 'data.mix=[{task="mlm"}]')
    assert "has no effect beside data.mix" in said
    said = refused(capsys, *words, "data.train=", 'data.mix=[{task="mlm", wieght=2}]')
    assert "did you mean 'weight'" in said
