"""Of which retriever's step is each row?"""

import dataclasses

import pytest
import torch

from atlas_lm.index import FlatIndex
from atlas_lm.index.files import MIXED
from atlas_lm.runtime.errors import InputError

from .conftest import make_fingerprint

SECOND = make_fingerprint(dim=4, encoder="second")


def flat(n=6, **options):
    return FlatIndex(torch.randn(n, 4), fingerprint=make_fingerprint(dim=4), **options)


def test_rows_are_all_alike_until_some_are_replaced():
    index = flat(step=3)
    assert index.row_steps is None
    index.update_([4, 1], torch.randn(2, 4), step=8)
    assert index.row_steps.tolist() == [3, 8, 3, 3, 8, 3]
    assert index.step == 3, "an index is as old as its oldest row"
    index.update_([1, 0], torch.randn(2, 4), step=9)
    assert index.row_steps.tolist() == [9, 9, 3, 3, 8, 3]


def test_replacing_all_rows_makes_them_alike_again():
    index = flat()
    index.update_([0], torch.randn(1, 4), step=2)
    index.update_(slice(0, 6), torch.randn(6, 4), step=5)
    assert (index.step, index.row_steps) == (5, None)


def test_the_last_old_row_replaced_makes_them_alike_too():
    index = flat(2)
    index.update_([0], torch.randn(1, 4), step=5)
    index.update_([1], torch.randn(1, 4), step=5)
    assert (index.step, index.row_steps) == (5, None)


def test_vectors_of_two_encoders_fit_no_retriever():
    index = flat()
    index.update_([0], torch.randn(1, 4), step=1, fingerprint=SECOND)
    assert index.fingerprint.encoder == MIXED
    with pytest.raises(InputError, match="built with encoder='mixed'"):
        index.fingerprint.check(SECOND)
    index.update_(slice(0, 6), torch.randn(6, 4), step=2, fingerprint=SECOND)
    assert index.fingerprint == SECOND


def test_vectors_of_another_template_are_refused_and_change_nothing():
    index = flat()
    before = index.embeddings.clone()
    other = dataclasses.replace(SECOND, template="{text}")
    with pytest.raises(InputError, match="template"):
        index.update_([0], torch.randn(1, 4), step=1, fingerprint=other)
    assert torch.equal(index.embeddings, before)
    assert index.row_steps is None


def test_a_share_and_another_device_keep_the_steps():
    index = flat()
    index.update_([4], torch.randn(1, 4), step=8)
    assert index.to("cpu").row_steps.tolist() == [0, 0, 0, 0, 8, 0]
    assert index.share(range(3, 6)).row_steps.tolist() == [0, 8, 0]


def test_steps_must_be_one_for_each_row():
    with pytest.raises(InputError, match="6 rows, but steps of shape"):
        flat().set_steps_(torch.zeros(5, dtype=torch.int32))


def test_steps_are_saved_with_the_index(tmp_path):
    index = flat()
    index.save(tmp_path / "alike")
    index.update_([4], torch.randn(1, 4), step=8, fingerprint=SECOND)
    index.save(tmp_path / "mixed")
    alike, mixed = (FlatIndex.load(tmp_path / name, verify=True) for name in ("alike", "mixed"))
    assert (alike.step, alike.row_steps) == (0, None)
    assert mixed.row_steps.tolist() == [0, 0, 0, 0, 8, 0]
    assert mixed.fingerprint.encoder == MIXED
    mixed.update_([0], torch.randn(1, 4), step=9)
    assert mixed.row_steps.tolist() == [9, 0, 0, 0, 8, 0]
    assert FlatIndex.load(tmp_path / "mixed").row_steps.tolist() == [0, 0, 0, 0, 8, 0]
