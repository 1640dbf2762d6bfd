import pytest

from atlas_lm.runtime.distributed import own_gpu
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.launched import PORTS, first_host, launched, short_grace, start_words

SLURM = {
    "SLURM_JOB_ID": "123456",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NODELIST": "gpu[007-008]",
}


def test_nothing_means_alone():
    assert launched({}) is None


def test_torchrun_says_it_all():
    env = {"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "MASTER_ADDR": "host"}
    place = launched(env | {"MASTER_PORT": "29400"} | SLURM)
    assert (place.rank, place.size, place.local_rank) == (2, 4, 0)
    assert (place.address, place.port) == ("host", 29400)


def test_a_step_of_srun_is_understood():
    place = launched(SLURM)
    assert (place.rank, place.size, place.local_rank) == (3, 4, 1)
    assert (place.address, place.port) == ("gpu007", 23456)
    assert launched(SLURM | {"MASTER_PORT": "4000", "MASTER_ADDR": "ten"}).address == "ten"


def test_steps_of_a_job_and_jobs_of_near_numbers_meet_at_ports_of_their_own():
    jobs, steps = range(123456, 123476), range(20)
    ports = {
        launched(SLURM | {"SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)}).port
        for job in jobs
        for step in steps
    }
    assert len(ports) == len(jobs) * len(steps)
    assert ports <= set(PORTS)


def test_a_batch_script_or_a_single_task_is_alone():
    assert launched({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"}) is None
    assert launched(SLURM | {"SLURM_STEP_NUM_TASKS": "1"}) is None


@pytest.mark.parametrize(
    ("nodes", "host"),
    [("a", "a"), ("a,b", "a"), ("n[3-7,9],x", "n3"), ("n[12],x", "n12"), ("n-1[001,4]", "n-1001")],
)
def test_the_first_host_of_a_list(nodes, host):
    assert first_host(nodes) == host


def test_a_missing_number_is_named():
    with pytest.raises(InputError, match="WORLD_SIZE"):
        launched({"RANK": "0", "WORLD_SIZE": "many"})


def test_a_process_takes_the_gpu_of_its_local_rank_or_the_only_one_it_is_shown():
    assert [own_gpu(rank, 4) for rank in range(4)] == [0, 1, 2, 3]
    assert own_gpu(3, 1) == 0  # srun --gpus-per-task 1
    with pytest.raises(InputError, match="finds 2 GPUs"):
        own_gpu(2, 2)


def test_as_many_processes_are_started_again():
    torchrun = {"RANK": "2", "WORLD_SIZE": "8", "TORCHELASTIC_RUN_ID": "none"}
    words = start_words(torchrun | {"LOCAL_WORLD_SIZE": "8", "GROUP_WORLD_SIZE": "1"})
    patient = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"
    assert " ".join(words) == f"{patient}=600 torchrun --nproc-per-node 8 -m atlas_lm"
    assert start_words(torchrun | {patient: "90"})[0] == f"{patient}=90"
    several = {"LOCAL_WORLD_SIZE": "4", "GROUP_WORLD_SIZE": "2", "MASTER_ADDR": "gpu007"}
    assert " ".join(start_words(torchrun | several | SLURM)) == (
        f"{patient}=600 torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d "
        "--rdzv-endpoint gpu007:29400 -m atlas_lm"
    )
    srun = SLURM | {"RANK": "3", "WORLD_SIZE": "4"}  # `Place.export` has said the same
    assert " ".join(start_words(srun)) == "srun --ntasks=4 --kill-on-bad-exit=1 atlas-lm"
    assert "--gpus-per-node=2" in start_words(SLURM | {"SLURM_GPUS_PER_NODE": "2"})
    assert start_words({}) == start_words({"RANK": "0", "WORLD_SIZE": "1"}) == ["atlas-lm"]


def test_a_launcher_that_kills_soon_after_it_stops_is_told_of():
    torchrun = {"TORCHELASTIC_RUN_ID": "none"}
    assert "TORCH_ELASTIC_SHUTDOWN_TIMEOUT=600" in short_grace(torchrun)
    assert not short_grace(torchrun | {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "90"})
    assert not short_grace(SLURM)
