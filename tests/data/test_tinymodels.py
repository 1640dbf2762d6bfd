from __future__ import annotations

import torch

from atlas_lm.data.tinymodels import tiny_reader, tiny_retriever
from atlas_lm.reader import open_reader
from atlas_lm.retriever import BiEncoder
from atlas_lm.types import Passage

WORDS = ["ada", "eats", "food", "plum"]
PASSAGE = Passage(id="1", title="ada", text="food plum")


def test_every_word_is_one_token_and_comes_back(tmp_path):
    reader = tiny_reader(WORDS)
    inputs = reader.collate(["ada eats"], [[PASSAGE]])
    assert reader.tokenizer.decode(inputs.tokens.ids[0, 0]).split() == [
        *("ada", "eats", "ada", "food", "plum", "</s>")
    ]


def test_a_saved_reader_is_the_same_reader(tmp_path):
    reader = tiny_reader(WORDS)
    reader.save_pretrained(tmp_path / "reader")
    again = open_reader(tmp_path / "reader")
    assert again.settings == reader.settings
    for half in (reader, again):
        half.inputs = half.collate(["ada eats"], [[PASSAGE]])
    assert torch.equal(reader.score(reader.inputs, ["plum"]), again.score(again.inputs, ["plum"]))


def test_tied_towers_give_one_text_one_vector_and_drawn_apart_they_do_not():
    tied, untied = tiny_retriever(WORDS), tiny_retriever(WORDS, tied=False)
    passage = Passage(id="1", text="ada eats")
    assert torch.equal(tied.embed_queries(["ada eats"]), tied.embed_passages([passage]))
    assert not torch.allclose(untied.embed_queries(["ada eats"]), untied.embed_passages([passage]))


def test_a_saved_retriever_is_the_same_retriever(tmp_path):
    for name, tied in (("tied", True), ("untied", False)):
        retriever = tiny_retriever(WORDS, tied=tied).eval()
        retriever.save_pretrained(tmp_path / name)
        again = BiEncoder.from_pretrained(tmp_path / name)
        assert again.tied == tied
        score = retriever.score(["ada eats"], [[PASSAGE]])
        assert torch.equal(score, again.score(["ada eats"], [[PASSAGE]]))


def test_weights_come_from_the_seed_and_leave_the_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second, other = (tiny_reader(WORDS, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(3), expected)
    name = "shared.weight"
    weight = first.model.state_dict()[name]
    assert torch.equal(weight, second.model.state_dict()[name])
    assert not torch.equal(weight, other.model.state_dict()[name])
