from __future__ import annotations

import json

import pytest

from atlas_lm.data.nq import NaturalQuestions
from atlas_lm.runtime.errors import InputError
from tests.data.official_files import jsonl, made, write

OPEN = [
    {
        "question": "when was the last time anyone was on the moon",
        "answer": ["14 December 1972 UTC"],
    },
    {"question": "who wrote he ain't heavy", "answer": ["Bobby Scott", "Bob Russell"]},
]


def simplified(**changes):
    """A row of v1.0-simplified: tokens are the text split at spaces, tags among them."""
    text = "<H1> Moon </H1> <P> Men walked there in <B> December </B> 1972 , and not since . </P>"
    row = {
        "annotations": [
            {
                "annotation_id": 593165450220027640,
                "long_answer": {"candidate_index": 0, "end_token": 17, "start_token": 3},
                "short_answers": [{"end_token": 11, "start_token": 7}],
                "yes_no_answer": "NONE",
            }
        ],
        "document_text": text,
        "document_url": "https://en.wikipedia.org//w/index.php?title=Moon&oldid=1",
        "example_id": 5655493461695504401,
        "long_answer_candidates": [{"end_token": 17, "start_token": 3, "top_level": True}],
        "question_text": "when did men walk on the moon",
    }
    return row | changes


def annotation(*spans, spoken="NONE"):
    short = [{"start_token": start, "end_token": end} for start, end in spans]
    return {"short_answers": short, "yes_no_answer": spoken}


def test_nq_open(tmp_path):
    train = jsonl(tmp_path / "NQ-open.train.jsonl", *OPEN)
    dev = jsonl(tmp_path / "NQ-open.dev.jsonl", OPEN[0])
    manifest, rows = made(NaturalQuestions(), [train, f"test={dev}"], tmp_path / "out")
    assert rows["train"] == [
        {"id": "nq-train-1", "question": OPEN[0]["question"], "answers": OPEN[0]["answer"]},
        {"id": "nq-train-2", "question": OPEN[1]["question"], "answers": OPEN[1]["answer"]},
    ]
    assert [row["id"] for row in rows["test"]] == ["nq-test-1"]
    assert manifest["task"] == "qa"


def test_simplified_nq_packed(tmp_path):
    file = tmp_path / "simplified-nq-train.jsonl.gz"
    jsonl(file, simplified(), simplified(example_id=2, annotations=[annotation()]))
    manifest, rows = made(NaturalQuestions(), [str(file)], tmp_path / "out")
    assert rows["train"] == [
        {
            "id": "5655493461695504401",
            "question": "when did men walk on the moon",
            "answers": ["in December"],
        }
    ]
    assert manifest["left_out"] == {"train": {"no short answer": 1}}


def test_all_spans_of_at_most_five_tokens_are_answers(tmp_path):
    rows = [
        simplified(annotations=[annotation((8, 11)), annotation((8, 11), (11, 12)), annotation()]),
        simplified(example_id=2, annotations=[annotation((4, 16))]),
        simplified(example_id=3, annotations=[annotation(spoken="YES")]),
    ]
    file = jsonl(tmp_path / "nq-dev-00.jsonl", *rows)
    manifest, written = made(NaturalQuestions(), [file], tmp_path / "out")
    assert [row["answers"] for row in written["dev"]] == [["December", "1972"]]
    assert manifest["left_out"]["dev"] == {
        "no short answer of at most 5 tokens": 1,
        "yes or no": 1,
    }


def test_full_nq_has_its_tokens_in_a_list(tmp_path):
    tokens = [
        {"token": "<P>", "html_token": True, "start_byte": 0, "end_byte": 3},
        {"token": "December", "html_token": False, "start_byte": 4, "end_byte": 12},
        {"token": "1972", "html_token": False, "start_byte": 13, "end_byte": 17},
    ]
    row = simplified(document_tokens=tokens, annotations=[annotation((0, 3))])
    del row["document_text"]
    file = jsonl(tmp_path / "nq-dev-00.jsonl", row)
    assert made(NaturalQuestions(), [file], tmp_path / "out")[1]["dev"][0]["answers"] == [
        "December 1972"
    ]


def test_dpr_json_is_read_element_by_element(tmp_path):
    context = {"title": "T", "text": "t", "score": 1000, "title_score": 1}
    data = [
        {
            "dataset": "nq_train_psgs_w100",
            "question": "big little lies season 2 how many episodes",
            "answers": ["seven"],
            "positive_ctxs": [{**context, "passage_id": "18768923"}],
            "negative_ctxs": [],
            "hard_negative_ctxs": [{**context, "passage_id": "7"}],
        },
        {"dataset": "x", "question": "q2", "answers": ["a"], "positive_ctxs": []},
    ]
    file = write(tmp_path / "biencoder-nq-train.json.gz", json.dumps(data, indent=4))
    _, rows = made(NaturalQuestions(), [file], tmp_path / "out")
    assert [row.get("gold_passage_ids") for row in rows["train"]] == [["18768923"], None]
    assert rows["train"][1]["answers"] == ["a"]


def test_dpr_table(tmp_path):
    table = 'who is it\t[\'A\', "B\'s"]\n"a ""quoted"" one"\t[\'C\']\n'
    file = write(tmp_path / "nq-test.qa.csv", table)
    rows = made(NaturalQuestions(), [file], tmp_path / "out")[1]["test"]
    assert [(row["question"], row["answers"]) for row in rows] == [
        ("who is it", ["A", "B's"]),
        ('a "quoted" one', ["C"]),
    ]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"question": "q"}, "no answer"),
        ({"question": "q", "answer": "a"}, "answer is a string 'a'"),
        ({"question": "  ", "answer": ["a"]}, "question is blank"),
        ({"query": "q", "answer": ["a"]}, "missing field 'question'"),
        ("{'question': 'q'}", "malformed JSON"),
        ("", "blank line"),
        ("[1]", "is no"),
        (simplified(annotations=[annotation((3, 99))]), "from token 3 to 99 of a document of 18"),
        (simplified(annotations=None), "annotations is null"),
    ],
)
def test_malformed_rows_name_file_and_line(tmp_path, row, told):
    file = jsonl(tmp_path / "nq-train.jsonl", OPEN[0], row, OPEN[1])
    with pytest.raises(InputError, match="--skip-malformed") as caught:
        made(NaturalQuestions(), [file], tmp_path / "out")
    assert str(caught.value).startswith(f"{file}:2: ")
    assert told in str(caught.value)
    assert not (tmp_path / "out").exists()
    manifest, rows = made(NaturalQuestions(), [file], tmp_path / "out", skip_malformed=True)
    assert len(rows["train"]) == 2
    assert manifest["malformed"]["rows"] == 1
    assert f"{file}:2: " in (tmp_path / "out" / "malformed.txt").read_text()


@pytest.mark.parametrize(
    "changes",
    [
        {"annotations": ["none"]},
        {"annotations": [{"short_answers": [None]}]},
        {"annotations": [{"short_answers": 3}]},
        {"annotations": [annotation((0, 1))], "document_tokens": [{"html_token": True}]},
        {"annotations": [annotation((0, 1))], "document_tokens": [{"token": None}]},
    ],
)
def test_annotations_of_another_form_are_malformed_rows(tmp_path, changes):
    file = jsonl(tmp_path / "train.jsonl", simplified(**changes), simplified())
    with pytest.raises(InputError, match=r"train.jsonl:1: annotations or document_tokens"):
        made(NaturalQuestions(), [file], tmp_path / "out")
    manifest, rows = made(NaturalQuestions(), [file], tmp_path / "out", skip_malformed=True)
    assert manifest["malformed"]["rows"] == len(rows["train"]) == 1
