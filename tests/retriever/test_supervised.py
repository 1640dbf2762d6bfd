from __future__ import annotations

import json
import math

import pytest
import torch

from atlas_lm.passages.store import PassageStore
from atlas_lm.retriever.contrastive_checkpoint import PretrainCheckpoints
from atlas_lm.retriever.contrastive_fit import fit_resumably, resume_from
from atlas_lm.retriever.supervised import SupervisedConfig
from atlas_lm.retriever.supervised_data import JudgedQuestions, QuestionSampler
from atlas_lm.runtime.errors import InputError
from tests.retriever.contrastive_worker import FIT, supervised_learner, write_questions

GOLD = {"title": "Otter", "text": "An otter swims."}
HARD = {"title": "Heron", "text": "A heron wades."}
EASY = {"title": "Lynx", "text": "A lynx climbs."}


def test_both_formats_say_the_same(tmp_path):
    lines = tmp_path / "q.jsonl"
    row = {"query": "who swims", "positive_passages": [GOLD], "negative_passages": [HARD]}
    lines.write_text(f"\n{json.dumps(row)}\n")
    own = {
        "dataset": "nq",
        "question": "who swims",
        "answers": ["otter"],
        "positive_ctxs": [{**GOLD, "score": 3.0, "passage_id": "1"}],
        "hard_negative_ctxs": [HARD],
        "negative_ctxs": [EASY],
    }
    listed = tmp_path / "q.json"
    listed.write_text(json.dumps([own], indent=1))
    one, other = JudgedQuestions(lines)[0], JudgedQuestions(listed)[0]
    assert one.query == other.query == "who swims"
    assert [p.text for p in one.positives] == [p.text for p in other.positives]
    assert [p.text for p in one.negatives] == [p.text for p in other.negatives] == [HARD["text"]]
    assert other.positives[0].id == "1"
    own["hard_negative_ctxs"] = []
    listed.write_text(json.dumps([own]))
    assert [p.text for p in JudgedQuestions(listed)[0].negatives] == [EASY["text"]]


def test_ids_are_looked_up_in_the_corpus(tmp_path):
    corpus = tmp_path / "p.jsonl"
    corpus.write_text("".join(json.dumps({"id": str(n), "text": f"t{n}"}) + "\n" for n in range(3)))
    rows = tmp_path / "q.jsonl"
    rows.write_text(
        '{"query": "a", "positive_passages": ["2"], "negative_passages": ["0"]}\n'
        '{"query": "b", "positive_passages": ["9"]}\n'
    )
    questions = JudgedQuestions(rows, PassageStore.open(corpus))
    assert questions[0].positives[0].text == "t2"
    with pytest.raises(InputError, match=r"q\.jsonl:2: positive_passages: id '9' is not in"):
        questions[1]
    with pytest.raises(InputError, match="name the corpus"):
        JudgedQuestions(rows)[0]


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("{", "not valid JSON"),
        ("[1]", "list|object"),
        ('{"positive_passages": []}', "'query'"),
        ('{"query": "a", "positive_passages": []}', "no positive passage"),
        ('{"query": "a", "positive_passages": "x"}', "must be a list"),
        ('{"query": "a", "positive_passages": [{"title": "x"}]}', "needs 'text'"),
    ],
)
def test_a_wrong_row_is_named(tmp_path, line, named):
    path = tmp_path / "q.jsonl"
    path.write_text(f"{line}\n")
    with pytest.raises(InputError, match=named):
        JudgedQuestions(path)[0]


def test_all_rows_are_checked_and_questions_without_positives_left_out(tmp_path):
    rows = [
        {"query": "a", "positive_passages": [GOLD]},
        {"query": "b", "positive_ctxs": []},
        {"question": "c", "positive_ctxs": [GOLD]},
    ]
    path, listed = tmp_path / "q.jsonl", tmp_path / "q.json"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    listed.write_text(json.dumps(rows))
    for file in (path, listed):
        kept = JudgedQuestions(file).answerable()
        assert [kept[n].query for n in range(len(kept))] == ["a", "c"]
    path.write_text(f'\n{json.dumps(rows[0])}\n\n{{"query": ""}}\n')
    with pytest.raises(InputError, match=r"q\.jsonl:4: field 'query'"):
        JudgedQuestions(path).answerable()
    listed.write_text(json.dumps(rows[:2]))
    with pytest.raises(InputError, match=r"q\.json: question 2: no positive passage"):
        JudgedQuestions(listed)[1]
    path.write_text(json.dumps(rows[1]))
    with pytest.raises(InputError, match="no question has a positive"):
        JudgedQuestions(path).answerable()


def test_missing_and_empty_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        JudgedQuestions(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(InputError, match="no questions"):
        JudgedQuestions(tmp_path / "empty.jsonl")


def test_every_epoch_asks_every_question_once_in_another_order(tmp_path):
    questions = JudgedQuestions(write_questions(tmp_path / "questions.jsonl", 12))
    sampler = QuestionSampler(questions, 6, 2, seed=0)
    asked = [judged.query for step in range(4) for judged in sampler.batch(step, range(6))]
    assert set(asked[:12]) == set(asked[12:]) == {questions[n].query for n in range(12)}
    assert asked[:12] != asked[12:]
    batch = sampler.batch(0, range(6))
    assert batch == [*sampler.batch(0, range(2)), *sampler.batch(0, range(2, 6))]
    assert all(len(judged.positives) == 1 for judged in batch)
    assert {len(judged.negatives) for judged in batch} <= {0, 1, 2}


def test_loss_is_the_log_softmax_of_the_own_passage_among_all(plain_dir, tmp_path):
    write_questions(tmp_path / "questions.jsonl")
    learner = supervised_learner(tmp_path, plain_dir)
    learner.retriever.eval()
    loss, metrics = learner.loss(0)
    batch = learner.sampler.batch(0, range(6))
    query = learner.retriever.embed_queries([judged.query for judged in batch])
    passages = [judged.positives[0] for judged in batch]
    passages += [negative for judged in batch for negative in judged.negatives]
    scores = (query @ learner.retriever.embed_passages(passages).T).double()
    expected = -torch.log_softmax(scores, dim=-1).diagonal()[:6].mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert metrics["accuracy"] == pytest.approx(
        (scores.argmax(dim=-1) == torch.arange(6)).double().mean().item()
    )
    assert math.isfinite(loss.item())


def test_a_run_that_stops_and_goes_on_ends_at_the_same_weights(plain_dir, tmp_path):
    write_questions(tmp_path / "questions.jsonl")
    whole, cut, resumed = (supervised_learner(tmp_path, plain_dir) for _ in range(3))
    fit_resumably(whole, FIT, PretrainCheckpoints(tmp_path / "a", {}), log=lambda *_: None)
    kept = PretrainCheckpoints(tmp_path / "b", {})
    asked = iter([False, True])
    fit_resumably(cut, FIT, kept, log=lambda *_: None, stop=lambda: next(asked))
    start = resume_from(resumed, kept)
    fit_resumably(resumed, FIT, kept, log=lambda *_: None, start=start)
    other = resumed.module.state_dict()
    for name, tensor in whole.module.state_dict().items():
        assert torch.equal(tensor, other[name]), name
    query, passage = whole.retriever.query_encoder, whole.retriever.passage_encoder
    assert not torch.equal(next(query.parameters()), next(passage.parameters()))


def test_impossible_options_are_refused_by_name():
    with pytest.raises(InputError, match=r"supervised\.temperature"):
        SupervisedConfig(temperature=0.0)
    with pytest.raises(InputError, match=r"supervised\.hard_negatives"):
        SupervisedConfig(hard_negatives=-1)
