from __future__ import annotations

import pytest

from atlas_lm.data.nano_clozes import ClozeConfig, clozes
from atlas_lm.data.nano_reader import GAP
from atlas_lm.runtime.errors import InputError
from atlas_lm.types import Passage

OTTER = Passage(
    id="otter",
    title="Otter (animal)",
    text="The otter is a swimming mammal of rivers. It was described by Carl Linnaeus in 1758.",
)
CURIE = Passage(
    id="curie",
    title="Marie Curie",
    text="Marie Curie (born 1867) was a physicist who found Radium in Paris with Pierre Curie.",
)


def test_a_title_is_asked_for_by_what_is_said_of_it():
    config = ClozeConfig(title_share=1, deletion=0, wh_share=1, per_passage=1)
    otter, curie = clozes([OTTER, CURIE], config)
    assert otter["query"] == "what is a swimming mammal of rivers"
    assert otter["target"] == "Otter"
    assert otter["gold_passage_ids"] == ["otter"]
    assert curie["query"].startswith("who was a physicist")
    assert curie["target"] == "Marie Curie"


def test_a_span_is_replaced_by_a_gap_and_is_the_target():
    config = ClozeConfig(title_share=0, deletion=0, wh_share=0, per_passage=20)
    rows = list(clozes([OTTER, CURIE], config))
    targets = {row["target"] for row in rows}
    assert {"Carl Linnaeus", "1758"} <= targets
    for row in rows:
        assert row["query"].count(GAP) == 1
        passage = OTTER if row["gold_passage_ids"] == ["otter"] else CURIE
        filled = row["query"].replace(GAP, row["target"])
        assert filled.replace(" ", "").rstrip(".") in passage.text.replace(" ", "")


def test_a_year_is_asked_for_by_when_and_words_are_deleted():
    config = ClozeConfig(title_share=0, deletion=0, wh_share=1, per_passage=20)
    years = [row for row in clozes([OTTER], config) if row["target"] == "1758"]
    assert years
    assert all("when" in row["query"] for row in years)
    thinned = ClozeConfig(title_share=0, deletion=1, wh_share=1, per_passage=2)
    assert all(len(row["query"].split()) == 1 for row in clozes([OTTER], thinned))


def test_what_is_made_of_a_passage_does_not_depend_on_the_others():
    config = ClozeConfig()
    alone = list(clozes([CURIE], config))
    assert [r for r in clozes([OTTER, CURIE], config) if r["id"] in {a["id"] for a in alone}] == (
        alone
    )
    assert list(clozes([Passage(id="none", text="nothing to ask for here.")], config)) == []


def test_impossible_options_are_refused_by_name():
    with pytest.raises(InputError, match=r"clozes\.deletion=2"):
        ClozeConfig(deletion=2)
    with pytest.raises(InputError, match=r"clozes\.per_passage=0"):
        ClozeConfig(per_passage=0)
