import pytest
import torch

from atlas_lm.index.files import MIXED
from atlas_lm.runtime.errors import InputError

from .world import Retriever, live_index


def test_a_run_begins_at_step_0_whatever_the_index_says():
    retriever = Retriever()
    live = live_index(retriever)
    live.index.set_steps_(60)
    again = type(live)(live.index, live.store, retriever, retriever.fingerprint)
    assert (again.index.step, again.mean_age(3)) == (0, 3)


def test_renewed_rows_carry_their_step_and_the_index_is_of_mixed_encoders():
    retriever = Retriever(5)
    live = live_index(retriever)
    retriever.move_()
    live.renew([3, 1], 7)
    assert torch.equal(live.index.embeddings[[1, 3]], retriever.vectors.detach()[[1, 3]])
    assert live.row_steps.tolist() == [0, 7, 0, 7, 0]
    assert live.mean_age(7) == pytest.approx(7 * 3 / 5)
    assert (live.version, live.embedded) == (1, 2)
    assert live.index.fingerprint.encoder == MIXED
    live.renew(range(5), 8)
    assert live.row_steps.tolist() == [8] * 5
    assert live.index.fingerprint == retriever.fingerprint()


def test_nothing_to_renew_changes_nothing():
    live = live_index(Retriever())
    live.renew([], 3)
    assert (live.version, live.embedded) == (0, 0)


def test_a_diverged_retriever_leaves_the_index_alone():
    retriever = Retriever()
    live = live_index(retriever)
    before = live.index.embeddings.clone()
    retriever.vectors.data[3] = torch.nan
    with pytest.raises(InputError, match="not finite"):
        live.renew(range(20), 1)
    assert torch.equal(live.index.embeddings, before)
    assert live.version == 0
