from __future__ import annotations

from dataclasses import replace

from atlas_lm.evaluation import measure
from atlas_lm.evaluation.metrics import MRR_DEPTH
from tests.tinyworld.world import draw, open_run, questions


def test_the_reciprocal_rank_does_not_depend_on_the_depths_of_recall(tmp_path):
    tiny = draw(tmp_path)
    atlas, _ = open_run(tiny)
    ranked = atlas.retrieve("who ?", MRR_DEPTH + 1).passages[0]
    one = replace(questions(tiny, atlas)[0], query="who ?", sought="who ?")
    for place, expected in ((MRR_DEPTH - 1, 1 / MRR_DEPTH), (MRR_DEPTH, 0.0)):
        asked = [replace(one, gold_passage_ids=frozenset({ranked[place].id}))]
        for ks in ((1,), (1, 5, 40)):
            found = measure(atlas, asked, ks=ks, answers=False).metrics.means()
            assert found["gold_mrr"] == expected
            assert {name for name in found if name.startswith("recall")} == {
                f"recall_at_{k}" for k in ks
            }
