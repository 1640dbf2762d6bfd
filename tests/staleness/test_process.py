"""A background refresh in a real second process, with a real encoder."""

import json
import subprocess
import time

import pytest
import torch

from atlas_lm.data.tinymodels import tiny_retriever
from atlas_lm.data.tinyworld import TinyWorldConfig, make_tinyworld
from atlas_lm.index.files import Fingerprint
from atlas_lm.passages.store import PassageStore
from atlas_lm.staleness import BackgroundConfig
from atlas_lm.staleness.background import Job
from atlas_lm.staleness.process import ORPHANED, ProcessLauncher, ProcessWorker, main, run_job


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A store of 80 passages and a retriever."""
    made = make_tinyworld(TinyWorldConfig(people=8, lessons=1))
    path = tmp_path_factory.mktemp("process") / "passages.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in made.passages), "utf-8")
    return PassageStore.open([path]), tiny_retriever(made.words)


def launcher(world, directory, **config):
    store, retriever = world
    return ProcessLauncher(
        retriever, store, directory, dtype=torch.float16, config=BackgroundConfig(**config)
    )


def job(world, launcher):
    store, retriever = world
    fingerprint = Fingerprint(**retriever.fingerprint(store.fingerprint))
    return Job(7, launcher.copy_weights(), fingerprint)


def embedded_here(world):
    store, retriever = world
    return retriever.embed_corpus(store.passages(range(len(store)))).half()


@pytest.fixture
def not_started(monkeypatch):
    """Launch writes the files, and the process does nothing."""
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **options: Ended())


class Ended:
    returncode = 1

    def poll(self):
        return 1

    def wait(self, timeout=None):
        return 1

    def terminate(self):
        pass


def test_the_job_embeds_with_the_copied_weights(world, tmp_path, not_started):
    _, retriever = world
    starter = launcher(world, tmp_path / "bg")
    this = job(world, starter)
    expected = embedded_here(world)
    with torch.no_grad():
        kept = retriever.passage_encoder.embeddings.word_embeddings.weight.clone()
        retriever.passage_encoder.embeddings.word_embeddings.weight.add_(1.0)
    try:
        worker = starter.launch(this, again=False)
    finally:
        retriever.passage_encoder.embeddings.word_embeddings.weight.data.copy_(kept)
    run_job(tmp_path / "bg")
    assert torch.equal(worker.vectors(), expected)
    worker.clear()
    assert not (tmp_path / "bg").exists()


def test_a_process_that_fails_is_replaced_by_this_one(world, tmp_path, not_started, capsys):
    starter = launcher(world, tmp_path / "bg")
    worker = starter.launch(job(world, starter), again=False)
    assert worker.is_done()
    assert torch.equal(worker.vectors(), embedded_here(world))
    assert "background refresh ended with exit code 1" in capsys.readouterr().err


def test_a_process_that_is_killed_is_replaced_by_this_one(world, tmp_path, capsys):
    starter = launcher(world, tmp_path / "bg")
    worker = starter.launch(job(world, starter), again=False)
    worker._process.kill()
    while not worker.is_done():
        time.sleep(0.01)
    assert torch.equal(worker.vectors(), embedded_here(world))
    assert "background refresh ended with exit code -9" in capsys.readouterr().err
    worker.clear()


def test_what_was_done_is_not_done_again(world, tmp_path, not_started, monkeypatch):
    starter = launcher(world, tmp_path / "bg")
    this = job(world, starter)
    starter.launch(this, again=False)
    run_job(tmp_path / "bg")
    monkeypatch.setattr("atlas_lm.staleness.process.build", pytest.fail)
    worker = starter.launch(this, again=True)
    assert torch.equal(worker.vectors(), embedded_here(world))


def test_a_new_job_leaves_nothing_of_the_last(world, tmp_path, not_started, monkeypatch):
    starter = launcher(world, tmp_path / "bg")
    this = job(world, starter)
    starter.launch(this, again=False)
    run_job(tmp_path / "bg")
    starter.launch(this, again=False)
    assert not (tmp_path / "bg" / "index").exists()


def test_a_process_whose_training_is_gone_ends(world, tmp_path, not_started):
    starter = launcher(world, tmp_path / "bg")
    starter.launch(job(world, starter), again=False)
    path = tmp_path / "bg" / "job.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"parent": 1 << 30}))
    with pytest.raises(SystemExit) as ended:
        run_job(tmp_path / "bg")
    assert ended.value.code == ORPHANED


@pytest.mark.multiprocess
def test_a_real_process_gives_the_same_bits(world, tmp_path):
    starter = launcher(world, tmp_path / "bg", threads=torch.get_num_threads())
    worker = starter.launch(job(world, starter), again=False)
    assert not worker.is_done()
    assert torch.equal(worker.vectors(), embedded_here(world))
    assert worker.is_done()


@pytest.mark.slow
@pytest.mark.multiprocess
def test_stopped_it_is_gone_and_can_be_launched_again(world, tmp_path):
    starter = launcher(world, tmp_path / "bg")
    this = job(world, starter)
    worker = starter.launch(this, again=False)
    time.sleep(0.2)
    worker.stop()
    assert worker.is_done()
    assert (tmp_path / "bg" / "retriever").is_dir()
    again = ProcessWorker(tmp_path / "bg")
    assert torch.equal(again.vectors(), embedded_here(world))


def test_a_job_that_cannot_be_read_says_so(tmp_path, capsys):
    (tmp_path / "job.json").write_text("{", "utf-8")
    assert main(str(tmp_path)) == 2
    assert "job.json" in capsys.readouterr().err
