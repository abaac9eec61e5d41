"""Where a process runs: Lightning knows it under every launcher, so it is asked."""

from __future__ import annotations

import lightning_fabric.accelerators.cuda
import pytest
import pytorch_lightning.accelerators.cuda
import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from thinet.app import config
from thinet.base.errors import ThinetError
from thinet.engine.engine import Engine
from thinet.engine.settings import Devices

SLURM = {
    "SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "4", "SLURM_PROCID": "2", "SLURM_LOCALID": "2",
    "SLURM_NODEID": "0", "SLURM_NNODES": "1", "SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "prune",
}  # fmt: skip
TORCHRUN = {
    "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0",
    "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511", "TORCHELASTIC_RUN_ID": "x",
}  # fmt: skip


@pytest.fixture
def machine(monkeypatch):
    """``machine(4, **variables)``: so many GPUs, and what a launcher has set."""

    # A Trainer tells it to all loggers of this process, those of later tests included.
    monkeypatch.setattr(rank_zero_only, "rank", 0)

    def make(gpus: int, **variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        for module in (lightning_fabric.accelerators.cuda, pytorch_lightning.accelerators.cuda):
            monkeypatch.setattr(module, "num_cuda_devices", lambda: gpus)

    return make


def engine(**settings) -> Engine:
    return Engine(data=None, devices=Devices(**settings))


def test_slurm_sets_no_local_rank_and_each_process_has_its_gpu(machine):
    machine(4, **SLURM)
    assert engine(accelerator="gpu", devices=4, strategy="ddp").device == torch.device("cuda", 2)


def test_slurm_may_show_each_process_its_own_gpu_alone(machine):
    machine(1, **SLURM)
    own = engine(accelerator="gpu", devices=4, strategy="ddp")
    assert own.device == torch.device("cuda", 0)
    trainer = own._trainer("any", logger=False, callbacks=[])
    assert (trainer.world_size, trainer.global_rank) == (4, 2)


def test_torchrun(machine):
    machine(2, **TORCHRUN)
    assert engine(accelerator="gpu", devices=2, strategy="ddp").device == torch.device("cuda", 1)


@pytest.mark.parametrize(("accelerator", "gpus", "kind"), [
    ("auto", 1, "cuda"), ("auto", 0, "cpu"), ("gpu", 2, "cuda"), ("cpu", 2, "cpu"),
])  # fmt: skip
def test_one_process(machine, accelerator, gpus, kind):
    machine(gpus)
    assert engine(accelerator=accelerator).device.type == kind


def count(devices):
    return config._device_count({"accelerator": "gpu", "devices": devices})


def test_as_many_devices_as_tasks_where_each_task_sees_one(machine):
    machine(1, **SLURM)
    assert count(4) == count("auto") == 4
    with pytest.raises(ThinetError, match="asks for 5 GPUs"):
        count(5)


def test_one_gpu_is_one_device_without_slurm(machine):
    machine(1)
    assert count("auto") == 1
    with pytest.raises(ThinetError, match="asks for 4 GPUs"):
        count(4)
