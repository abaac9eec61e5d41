"""The checkpoint of a stage: when it is written, and how."""

from __future__ import annotations

import io
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from thinet.base.errors import Terminated, ThinetError, first_line
from thinet.base.files import write_bytes_atomic
from thinet.base.system_errors import system_error

EVERY = 8
"""Batches between two questions to all processes of a run whether one was told to stop."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the old file and renames; Lightning's own goes by way of the system's /tmp."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Write the checkpoint.

        Raises:
            ThinetError: If the disk is full or the folder cannot be written.
        """
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_bytes_atomic(Path(path), buffer.getvalue())


class StageCheckpoint(Checkpoint):
    """Keeps the state of training after each epoch, every few minutes, and when told to stop.

    SIGTERM, as schedulers send it before they kill, ends training after the batch under way and
    with a checkpoint. All processes of a run stop after the same batch.

    Args:
        path: Of the checkpoint; each one replaces the last.
        minutes: Between checkpoints within an epoch.
    """

    def __init__(self, path: Path, minutes: float) -> None:
        self.path, self._seconds = path, 60 * minutes
        self._saved = time.monotonic()
        self.told_to_stop = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take SIGTERM over; whoever called the Trainer puts the earlier handler back."""
        self._saved = time.monotonic()
        set_handler(self._note)

    def _note(self, *_: Any) -> None:
        # A job of submitit is told by another signal, and queued again by it; SIGTERM, which
        # SLURM sends as well, would end it for good.
        self.told_to_stop = "SUBMITIT_EXECUTOR" not in os.environ

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save within the epoch if it is time.

        Raises:
            Terminated: If a process of the run was told to stop.
        """
        alone = trainer.world_size == 1
        if trainer.is_last_batch or not (alone or batch_idx % EVERY == 0):
            return  # the end of the epoch saves
        due = time.monotonic() - self._saved > self._seconds
        if _any(trainer, due or self.told_to_stop):
            self._save(trainer)
            if _any(trainer, self.told_to_stop):
                raise Terminated(agreed=True)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End before another epoch begins.

        Raises:
            Terminated: If a process of the run was told to stop.
        """
        if _any(trainer, self.told_to_stop):
            for logger in trainer.loggers:
                logger.save()
            raise Terminated(agreed=True)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save after the epoch."""
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        for logger in trainer.loggers:
            logger.save()
        trainer.save_checkpoint(self.path)
        self._saved = time.monotonic()


@contextmanager
def own_signals(trainer: Trainer) -> Iterator[None]:
    """Within, SIGTERM does what it did before the Trainer, or what a callback of ours says.

    Lightning's handler would broadcast from within whatever the process is doing, and wait there
    for processes that do something else.
    """
    handler = signal.getsignal(signal.SIGTERM)
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        set_handler(handler)


def damaged(checkpoint: Path, error: Exception) -> ThinetError | None:
    """What to say of a checkpoint from which training could not go on.

    Args:
        checkpoint: The file.
        error: What happened before a first step.

    Returns:
        None if the file is not to blame: for want of memory, or since another process has ended.
    """
    if isinstance(error, ThinetError) or (
        system_error(error) is not None and _is_whole(checkpoint)
    ):
        return None
    return ThinetError(
        f"{checkpoint} is damaged ({first_line(error)}): delete it and type the same command again."
    )


def _is_whole(checkpoint: Path) -> bool:
    try:
        torch.load(checkpoint, map_location="cpu", weights_only=True)
    except Exception:  # whatever is wrong with it
        return False
    return True


def set_handler(handler: Any) -> None:
    """What SIGTERM does; only the main thread may say."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler if handler is not None else signal.SIG_DFL)


def _any(trainer: Trainer, value: bool) -> bool:
    """Whether it is so on any process."""
    if trainer.world_size == 1:
        return value
    return bool(trainer.strategy.reduce_boolean_decision(value, all=False))
