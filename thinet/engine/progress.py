"""How training shows that it is alive."""

from __future__ import annotations

import sys
import time
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import TQDMProgressBar

from thinet.base.errors import ThinetError
from thinet.engine.objective import LOSS

MODES = ("auto", "bar", "lines", "off")


class PlainProgress(Callback):
    """Lines instead of a bar, for logs and pipes: one an epoch, and one every half minute.

    Args:
        title: What is being trained.
        every: Seconds between lines within an epoch.
    """

    def __init__(self, title: str, every: float = 30.0) -> None:
        self._title, self._every = title, every
        self._start = self._last = 0.0
        self._resumed_at = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._start = self._last = time.monotonic()
        self._resumed_at = self._batches(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A line now and then."""
        if time.monotonic() - self._last >= self._every:
            self._line(trainer, f"batch {batch_idx + 1}/{trainer.num_training_batches}")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A line an epoch."""
        found: dict[str, Any] = trainer.callback_metrics
        # Where no loss is that of a network which classifies, it is that of what is trained.
        sums = [LOSS, *(update.name for update in getattr(pl_module, "updates", ()))]
        loss = next((found[f"train/{one}"] for one in sums if f"train/{one}" in found), None)
        top1 = found.get("val/top1")
        parts = [] if loss is None else [f"loss {float(loss):.4f}"]
        parts += [] if top1 is None else [f"validation top-1 {100 * float(top1):.2f} %"]
        self._line(trainer, ", ".join(parts))

    @staticmethod
    def _batches(trainer: Trainer) -> int:
        """Batches done in all epochs: Lightning's global step counts each update of a batch."""
        return trainer.fit_loop.epoch_loop.total_batch_idx + 1

    def _line(self, trainer: Trainer, text: str) -> None:
        self._last = time.monotonic()
        total = (trainer.max_epochs or 1) * int(trainer.num_training_batches)
        now = self._batches(trainer)
        done = max(1, now - self._resumed_at)
        left = (self._last - self._start) / done * max(0, total - now)
        if trainer.is_global_zero:
            epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
            print(f"  {self._title}: {epoch}, {text}, {clock(left)} left", flush=True)


class Bar(TQDMProgressBar):
    """Lightning's bar with the stage's name, gone when the stage is done."""

    def __init__(self, title: str) -> None:
        super().__init__(leave=False)
        self._title = title

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        """Name the stage in front of the epoch."""
        super().on_train_epoch_start(trainer)
        self.train_progress_bar.set_description(
            f"{self._title}: epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        )


def progress_callbacks(mode: str, title: str) -> list[Callback]:
    """The callbacks that show progress.

    Args:
        mode: ``bar``, ``lines``, ``off``, or ``auto``: a bar on a terminal, lines otherwise.
        title: What is being trained.

    Raises:
        ThinetError: If ``mode`` is unknown.
    """
    if mode not in MODES:
        raise ThinetError(f"trainer.progress={mode} is unknown: choose among {', '.join(MODES)}.")
    if mode == "off":
        return []
    bar = mode == "bar" or (mode == "auto" and sys.stderr.isatty())
    return [Bar(title) if bar else PlainProgress(title)]


def clock(seconds: float) -> str:
    """``1:02:03`` or ``02:03``."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute:02d}:{second:02d}"
