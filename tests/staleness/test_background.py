"""A refresh beside the training; the other process is played by a fake (see test_process)."""

import pytest
import torch

from atlas_lm.runtime.errors import InputError
from atlas_lm.staleness import BackgroundConfig
from atlas_lm.staleness.background import BackgroundRefresh
from tests.training.tiny import FakeLauncher

from .world import Retriever, live_index


class Launcher(FakeLauncher):
    def __init__(self, retriever, looks=2):
        super().__init__(retriever, looks)
        self.workers = []

    def copy_weights(self):
        return {"weight": self.retriever.vectors.detach().clone()}

    def launch(self, job, *, again):
        self.workers.append(super().launch(job, again=again))
        return self.workers[-1]


def background(steps=0, looks=2):
    retriever = Retriever()
    live = live_index(retriever)
    launcher = Launcher(retriever, looks)
    return BackgroundRefresh(live, BackgroundConfig(steps=steps), launcher), live, launcher


def test_the_swap_brings_the_vectors_of_the_step_it_began():
    refresh, live, launcher = background()
    old = live.index.embeddings.clone()
    live.encoder.move_()
    at_begin, made_with = live.encoder.vectors.detach().clone(), live.encoder.fingerprint()
    refresh.begin(5)
    live.encoder.move_(seed=2)
    for step in (6, 7):
        refresh.proceed(step)
        assert torch.equal(live.index.embeddings, old)
    refresh.proceed(8)
    assert torch.equal(live.index.embeddings, at_begin)
    assert (live.index.step, live.mean_age(8)) == (5, 3)
    assert live.index.fingerprint == made_with
    assert (live.version, live.embedded) == (1, 20)
    assert launcher.workers[0].cleared


def test_with_a_fixed_number_of_steps_the_swap_waits_for_them():
    refresh, live, _ = background(steps=3, looks=0)
    refresh.begin(5)
    for step in (6, 7):
        refresh.proceed(step)
        assert live.version == 0
    refresh.proceed(8)
    assert live.version == 1


def test_what_is_due_meanwhile_is_not_begun():
    refresh, live, launcher = background(steps=3)
    for step in range(1, 9):
        refresh.proceed(step)
        refresh.begin(step)
    assert launcher.launched == [(1, False), (4, False), (7, False)]
    assert live.embedded == 2 * 20


def test_a_refresh_that_was_stopped_is_begun_again_with_the_same_weights():
    refresh, live, launcher = background(steps=3)
    live.encoder.move_()
    at_begin = live.encoder.vectors.detach().clone()
    refresh.begin(5)
    refresh.close()
    assert launcher.workers[0].stopped
    facts, tensors = refresh.facts(), refresh.tensors()
    again, other, relauncher = background(steps=3)
    again.restore(facts, tensors)
    assert relauncher.launched == [(5, True)]
    again.proceed(8)
    assert torch.equal(other.index.embeddings, at_begin)
    assert other.index.step == 5


def test_nothing_under_way_leaves_nothing_behind():
    refresh, live, launcher = background()
    refresh.proceed(1)
    refresh.close()
    assert (refresh.facts(), refresh.tensors()) == ({}, {})
    refresh.restore({}, {})
    assert launcher.launched == []
    assert live.version == 0


def test_negative_numbers_are_refused():
    for name in ("steps", "threads"):
        with pytest.raises(InputError, match=f"background.{name}=-1"):
            BackgroundConfig(**{name: -1})
