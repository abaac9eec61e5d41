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
    strategy, count = _placement(devices, alternate)
    return Trainer(
        **{
            "accelerator": devices.accelerator,
            "devices": count,
            "num_nodes": devices.num_nodes,
            "strategy": strategy,
            "precision": devices.precision,
            "deterministic": "warn" if devices.deterministic else None,
            "limit_train_batches": devices.max_steps_per_epoch,
            "num_sanity_val_steps": 0,
            "use_distributed_sampler": False,  # the data set shards by itself
            "enable_model_summary": False,
            "enable_progress_bar": bar,
            "enable_checkpointing": "max_epochs" in settings,
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


def _placement(devices: Devices, alternate: bool) -> tuple[str | DDPStrategy, int]:
    """The strategy, and how many devices Lightning is to look for.

    DDP waits for the gradients of every parameter unless it is told to look for those unused.

    Under SLURM's ``--gpus-per-task=1`` a process sees one GPU, its own, while its neighbours have
    others, and Lightning would look for all of them here.
    """
    alone = devices.devices > 1 and torch.cuda.device_count() == 1
    if devices.accelerator != "cpu" and alone and SLURMEnvironment.detect():
        own = [torch.device("cuda", 0)] * devices.devices
        return DDPStrategy(parallel_devices=own, find_unused_parameters=alternate), 1
    several = devices.devices * devices.num_nodes > 1
    if alternate and several and devices.strategy in ("auto", "ddp"):
        return "ddp_find_unused_parameters_true", devices.devices
    return devices.strategy, devices.devices


def call(trainer: Trainer, run: Callable[..., Any], *args: Any, **settings: Any) -> Any:
    """Call a Trainer; Ctrl-C stays Ctrl-C where Lightning makes it an exit of its own."""
    try:
        with own_signals(trainer):
            return run(*args, **settings)
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        raise
