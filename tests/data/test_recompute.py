from __future__ import annotations

import torch

from atlas_lm.data import recompute
from atlas_lm.data.anserini_topics import Question
from atlas_lm.data.supported import Evidence, SupportRule
from atlas_lm.types import Passage

WORDS = ["delft", "vermeer", "apple"]
PASSAGES = [
    Passage("lead-0", "Vermeer lived there.", "Delft"),
    Passage("lead-1", "He painted the town.", "Vermeer"),
    Passage("lead-2", "Vermeer ate one.", "Apple"),
]


class WordCounter:
    """An encoder whose embedding counts three words."""

    def embed_queries(self, texts):
        return torch.tensor(
            [[text.lower().count(word) for word in WORDS] for text in texts]
        ).float()

    def embed_chunks(self, chunks):
        for chunk in chunks:
            yield self.embed_queries([f"{passage.title} {passage.text}" for passage in chunk])


def test_best_rows_are_the_nearest_in_order(monkeypatch):
    monkeypatch.setattr(recompute, "_CHUNK", 2)
    passage_emb = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.5, 2.0]])
    questions = ["apple", "delft vermeer", "vermeer delft delft"]
    rows = recompute.best_rows(WordCounter(), questions, passage_emb, topk=2)
    assert rows.tolist()[0][0] == 2
    assert rows.tolist()[1:] == [[0, 1], [0, 1]]
    assert recompute.best_rows(WordCounter(), questions, passage_emb, topk=100).shape == (3, 3)


def test_subsets_from_scratch_by_hand(monkeypatch):
    monkeypatch.setattr(recompute, "_CHUNK", 2)
    monkeypatch.setattr(recompute.BiEncoder, "from_pretrained", lambda name: WordCounter())
    asked = [Question("which painter was of delft", ("Vermeer",)), Question("why", ("because",))]
    found = recompute.recompute_subsets(
        PASSAGES, {"nq-dev": asked}, {"corpus": "aa"}, rule=SupportRule(topk=1)
    )
    assert found.evidence == {"nq-dev": {0: Evidence(supporting=(0,))}}
    assert (found.inputs, found.encoder) == ({"corpus": "aa"}, recompute.ENCODER)
