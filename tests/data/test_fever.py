from __future__ import annotations

from collections import Counter

import pytest

from atlas_lm.data.fever import Fever
from atlas_lm.runtime.errors import InputError
from atlas_lm.tasks import TaskConfig, load_examples
from tests.data.official_files import jsonl, made

SUPPORTED = {
    "id": 75397,
    "verifiable": "VERIFIABLE",
    "label": "SUPPORTS",
    "claim": "Nikolaj Coster-Waldau worked with the Fox Broadcasting Company.",
    "evidence": [
        [[92206, 104971, "Nikolaj_Coster-Waldau", 7], [92206, 104971, "Fox_-LRB-company-RRB-", 0]]
    ],
}
OPEN = {
    "id": 108281,
    "verifiable": "NOT VERIFIABLE",
    "label": "NOT ENOUGH INFO",
    "claim": "Andrew Kevin Walker is only Chinese.",
    "evidence": [[[108548, None, None, None]]],
}


def claims(count):
    labels = ("SUPPORTS", "REFUTES", "NOT ENOUGH INFO")
    return [
        SUPPORTED | {"id": number, "claim": f"Claim {number}.", "label": labels[number % 3]}
        for number in range(count)
    ]


def test_official_rows(tmp_path):
    train = jsonl(tmp_path / "train.jsonl", SUPPORTED, OPEN)
    test = jsonl(tmp_path / "shared_task_test.jsonl", {"id": 1, "claim": "A claim."})
    manifest, rows = made(Fever(), [train, test], tmp_path / "out")
    assert rows["train"] == [
        {
            "id": "75397",
            "claim": SUPPORTED["claim"],
            "label": "SUPPORTS",
            "evidence_pages": ["Nikolaj Coster-Waldau", "Fox (company)"],
        },
        {"id": "108281", "claim": OPEN["claim"], "label": "NOT ENOUGH INFO"},
    ]
    assert rows["test"] == [{"id": "1", "claim": "A claim."}]
    assert manifest["without_answers"] == {"test": 1}
    written = load_examples(tmp_path / "out" / "train.jsonl", TaskConfig(task="fever"))
    assert [example.id for example in written] == ["75397", "108281"]


def test_two_ways_leave_open_claims_out(tmp_path):
    file = jsonl(tmp_path / "paper_dev.jsonl", SUPPORTED, OPEN)
    manifest, rows = made(Fever(2), [file], tmp_path / "out")
    assert [row["label"] for row in rows["dev"]] == ["SUPPORTS"]
    assert manifest["left_out"] == {"dev": {"NOT ENOUGH INFO (--ways 2)": 1}}


def test_fifteen_and_sixty_five_shots_have_equal_shares(tmp_path):
    file = jsonl(tmp_path / "train.jsonl", *claims(120))
    rows = made(Fever(), [file], tmp_path / "out", seeds=2)[1]
    fifteen, sixty_five = rows["shots/15-seed0"], rows["shots/65-seed0"]
    assert set(Counter(row["label"] for row in fifteen).values()) == {5}
    assert sorted(Counter(row["label"] for row in sixty_five).values()) == [21, 22, 22]
    assert {row["id"] for row in fifteen} <= {row["id"] for row in sixty_five}
    assert fifteen != rows["shots/15-seed1"]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (SUPPORTED | {"label": "SUPPORT"}, r"label 'SUPPORT' \(did you mean 'SUPPORTS'\?\)"),
        ({"id": 1, "claim": "c"}, "missing field 'label'"),
        (SUPPORTED | {"claim": ""}, "claim is blank"),
        (SUPPORTED | {"evidence": [["Fox"]]}, "evidence is a list"),
    ],
)
def test_malformed_rows(tmp_path, row, told):
    file = jsonl(tmp_path / "train.jsonl", OPEN, row)
    with pytest.raises(InputError, match=f"train.jsonl:2: {told}"):
        made(Fever(), [file], tmp_path / "out")
