from __future__ import annotations

import os
import shlex
import stat
import subprocess
import sys

import pytest

from thinet.app.processes import (
    check_workers,
    claim_gpu,
    launched_processes,
    launched_together,
    limit_threads,
    name_ranks,
    tasks_on_machine,
    visible_gpus,
)
from thinet.base.errors import ThinetError

JOBLIB = "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"
CLAIM = """
import os, sys
from pathlib import Path
from thinet.app.processes import claim_gpu
print(claim_gpu(os.environ, Path(sys.argv[1])), os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
sys.stdin.read()
"""


@pytest.fixture
def worker(tmp_path):
    """Start a process that claims a GPU, tells it, and lives until its input ends."""
    started = []

    def start(gpus: str) -> subprocess.Popen[str]:
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", CLAIM, str(tmp_path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "CUDA_VISIBLE_DEVICES": gpus, "PYTHONPATH": os.getcwd()},
            )
        )
        return started[-1]

    yield start
    for one in started:
        one.kill()
        one.communicate()


def test_each_worker_has_a_gpu_of_its_own_and_a_late_one_waits(worker):
    first, second = worker("3,5"), worker("3,5")
    told = {process.stdout.readline().strip() for process in (first, second)}
    assert told == {"3 3", "5 5"}
    third = worker("3,5")
    assert third.stdout.readline() == "all 2 GPUs are taken by other points: waiting for one\n"
    first.kill()  # even a killed worker lets go of its GPU
    assert third.stdout.readline().strip() in told


def test_the_next_point_of_a_worker_keeps_its_gpu(tmp_path):
    env = {"CUDA_VISIBLE_DEVICES": "4,6"}
    assert [claim_gpu(env, tmp_path) for _ in range(3)] == ["4", "4", "4"]
    assert env["CUDA_VISIBLE_DEVICES"] == "4"


def test_a_gpu_named_twice_is_shared_by_two(tmp_path):
    for expected in ("0", "0", "1"):
        env = {"CUDA_VISIBLE_DEVICES": "0,0,1"}
        assert claim_gpu(env, tmp_path) == expected
        assert env["CUDA_VISIBLE_DEVICES"] == expected


def test_without_a_gpu_nothing_is_claimed(tmp_path):
    env = {"CUDA_VISIBLE_DEVICES": ""}
    assert claim_gpu(env, tmp_path) is None
    assert env == {"CUDA_VISIBLE_DEVICES": ""}


def test_visible_gpus_are_those_named_else_those_of_the_driver(tmp_path, monkeypatch):
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "2, 0,-1"}) == ["2", "0"]
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nprintf '0\\n1\\n'\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus({}) == ["0", "1"]
    program.write_text("#!/bin/sh\nexit 9\n")  # as without a driver
    assert visible_gpus({}) == []


def test_more_workers_than_gpus_are_refused(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    for workers in (3, -1):
        with pytest.raises(ThinetError, match=r"type hydra.launcher.n_jobs=2,"):
            check_workers({"_target_": JOBLIB, "n_jobs": workers}, "auto")
    check_workers({"_target_": JOBLIB, "n_jobs": 2}, "gpu")
    check_workers({"_target_": JOBLIB, "n_jobs": 3}, "cpu")
    check_workers({"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}, "gpu")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    check_workers({"_target_": JOBLIB, "n_jobs": 3}, "auto")


def test_processes_of_submitit_are_counted():
    assert launched_processes({"SLURM_NTASKS": "4"}) is None  # an allocation of the user's own
    assert launched_processes({"SLURM_NTASKS": "4", "SUBMITIT_EXECUTOR": "slurm"}) == 4
    assert launched_processes({"SUBMITIT_LOCAL_NTASKS": "2", "SUBMITIT_EXECUTOR": "local"}) == 2


def test_ranks_of_one_point_meet_at_one_port_and_others_at_another():
    def ranks(job: int, rank: int) -> dict[str, str]:
        env = {
            "SUBMITIT_EXECUTOR": "local",
            "SUBMITIT_LOCAL_JOB_ID": str(job),
            "SUBMITIT_LOCAL_NTASKS": "2",
            "SUBMITIT_LOCAL_GLOBALID": str(rank),
            "SUBMITIT_LOCAL_LOCALID": str(rank),
        }
        name_ranks(env)
        return env

    one, two, other = ranks(40001, 0), ranks(40001, 1), ranks(40002, 0)
    assert (one["RANK"], two["RANK"], two["LOCAL_RANK"], two["WORLD_SIZE"]) == ("0", "1", "1", "2")
    assert one["MASTER_PORT"] == two["MASTER_PORT"] != other["MASTER_PORT"]
    assert 1024 < int(one["MASTER_PORT"]) < 32768


def test_a_single_process_keeps_its_environment():
    env = {
        "SUBMITIT_EXECUTOR": "local",
        "SUBMITIT_LOCAL_JOB_ID": "7",
        "SUBMITIT_LOCAL_NTASKS": "1",
        "SUBMITIT_LOCAL_GLOBALID": "0",
    }
    before = dict(env)
    name_ranks(env)
    assert env == before


def test_threads_are_those_of_the_job_unless_the_user_said_otherwise():
    env = {"SUBMITIT_EXECUTOR": "local"}
    limit_threads(env, {"cpus_per_task": 3})
    assert env["OMP_NUM_THREADS"] == "3"
    env = {"SUBMITIT_EXECUTOR": "slurm", "OMP_NUM_THREADS": "5"}
    limit_threads(env, {"cpus_per_task": 3})
    assert env["OMP_NUM_THREADS"] == "5"
    env = {}
    limit_threads(env, {"cpus_per_task": 3})
    assert env == {}


def test_a_worker_ends_with_its_parent():
    child = (
        "import os, sys, time; from thinet.base.lifeline import end_with; "
        "end_with(os.getppid()); end_with(os.getppid()); print(os.getpid(), flush=True); "
        "sys.stdin.read()"
    )
    script = f"exec 3<&0; {shlex.join([sys.executable, '-c', child])} <&3 & wait"
    shell = subprocess.Popen(
        ["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert int(shell.stdout.readline()) != shell.pid
    shell.kill()
    assert shell.stdout.read() == ""  # ends only when the child, which has it too, has ended
    shell.stdin.close()
    shell.wait()


def test_tasks_of_slurm_on_this_machine():
    assert tasks_on_machine({}) == 1
    assert tasks_on_machine({"SLURM_NTASKS_PER_NODE": "4"}) == 1  # a shell within a job
    assert tasks_on_machine({"SLURM_NTASKS": "8", "SLURM_NTASKS_PER_NODE": "4"}) == 4
    assert tasks_on_machine({"SLURM_NTASKS": "1"}) == 1
    assert tasks_on_machine({"SLURM_NTASKS": "8", "SLURM_TASKS_PER_NODE": "4(x2)"}) == 4
    assert tasks_on_machine({"SLURM_NTASKS": "4", "SLURM_TASKS_PER_NODE": "4"}) == 4


@pytest.mark.parametrize("name", ["bash", "interactive"])
def test_a_shell_within_a_job_has_no_other_tasks(name):
    job = {"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "4", "SLURM_JOB_NAME": name}
    assert tasks_on_machine(job) == 1


@pytest.mark.parametrize(("together", "variables"), [
    (False, {}),
    (False, {"LOCAL_RANK": "1", "WORLD_SIZE": "2"}),  # started by the first one, by Lightning
    (True, {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2"}),
    (False, {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "1"}),
    (True, {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "prune"}),
    (False, {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "interactive"}),
    (False, {"SLURM_NTASKS": "1"}),
    (True, {"SUBMITIT_EXECUTOR": "local", "WORLD_SIZE": "2"}),
    (False, {"SUBMITIT_EXECUTOR": "local"}),
])  # fmt: skip
def test_who_started_the_processes(together, variables):
    assert launched_together(variables) == together


def test_locks_are_not_made_where_a_link_leads(tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (tmp_path / "locks").symlink_to(mine)
    with pytest.raises(ThinetError, match="belongs to somebody else"):
        claim_gpu({"CUDA_VISIBLE_DEVICES": "0"}, tmp_path / "locks")
    assert list(mine.iterdir()) == []
