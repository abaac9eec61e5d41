"""A Trainer as every task of a run has it: its devices, its plugins, and how it is called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ProgressBar
from pytorch_lightning.strategies import DDPStrategy

from thinet.engine.checkpoints import AtomicCheckpointIO, own_signals
from thinet.engine.progress import progress_callbacks
from thinet.engine.settings import Devices


def make_trainer(devices: Devices, title: str, alternate: bool = False, **settings: Any) -> Trainer:
    """A fresh Trainer.

    Args:
        devices: Where to run.
        title: What its progress bar is called.
        alternate: Whether several updates are made in turn, each of some of the parameters.
        settings: Of the Trainer, ``callbacks`` among them; with ``max_epochs`` it trains.
    """
    progress = progress_callbacks(devices.progress, title) if "max_epochs" in settings else []
    bar = any(isinstance(callback, ProgressBar) for callback in progress)
    return Trainer(
        **{
            "accelerator": devices.accelerator,
            "devices": devices.devices,
            "num_nodes": devices.num_nodes,
            "strategy": _strategy(devices, alternate),
            "precision": devices.precision,
            "deterministic": "warn" if devices.deterministic else None,
            "limit_train_batches": devices.max_steps_per_epoch,
            "num_sanity_val_steps": 0,
            "use_distributed_sampler": False,  # the data set shards by itself
            "enable_model_summary": False,
            "enable_progress_bar": bar,
            "enable_checkpointing": "max_epochs" in settings,
            **_one_gpu_each(devices, alternate),
            "plugins": _plugins(),
            "log_every_n_steps": 10,
            **settings,
            "callbacks": [*settings["callbacks"], *progress],
        }
    )


def _plugins() -> list[Any]:
    """How checkpoints are written; and, under SLURM, that Lightning does not requeue by itself.

    It would look for its own checkpoint in every Trainer of a run, hence in the wrong stage.
    """
    environment = [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []
    return [AtomicCheckpointIO(), *environment]


def _strategy(devices: Devices, alternate: bool) -> str:
    """DDP waits for the gradients of every parameter unless it is told to look for those unused."""
    several = devices.devices * devices.num_nodes > 1
    if alternate and several and devices.strategy in ("auto", "ddp"):
        return "ddp_find_unused_parameters_true"
    return devices.strategy


def _one_gpu_each(devices: Devices, alternate: bool) -> dict[str, Any]:
    """Settings of a Trainer whose process sees one GPU, its own, while its neighbours have others.

    SLURM's ``--gpus-per-task=1`` makes it so. Lightning would look for all of them here.
    """
    alone = devices.devices > 1 and torch.cuda.device_count() == 1
    if devices.accelerator == "cpu" or not alone or not SLURMEnvironment.detect():
        return {}
    own = [torch.device("cuda", 0)] * devices.devices
    strategy = DDPStrategy(parallel_devices=own, find_unused_parameters=alternate)
    return {"strategy": strategy, "devices": 1}


def call(trainer: Trainer, run: Callable[..., Any], *args: Any, **settings: Any) -> Any:
    """Call a Trainer; Ctrl-C stays Ctrl-C where Lightning makes it an exit of its own."""
    try:
        with own_signals(trainer):
            return run(*args, **settings)
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        raise
