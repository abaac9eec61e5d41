"""Loggers that live as long as the run."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from pytorch_lightning.loggers import CSVLogger, Logger

from thinet.engine.logging.background import Steady, is_first
from thinet.engine.logging.dashboards import (
    GROUP,
    X_AXIS,
    has_wandb_key,
    make_mlflow,
    make_tensorboard,
    make_wandb,
)

__all__ = [
    "GROUP", "X_AXIS", "RunCSVLogger", "close", "has_wandb_key", "make_mlflow", "make_tensorboard",
    "make_wandb",
]  # fmt: skip


class RunCSVLogger(CSVLogger):
    """``metrics.csv`` in the run folder, continued when a run is resumed.

    Lightning's own logger replaces the file; this one takes up the rows that are there.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder), name="", version="")
        if is_first():
            rows = _read_rows(folder / "metrics.csv")
            self.experiment.metrics = rows  # making the experiment removes the file
            self.save()

    def rewind(self, step: int) -> None:
        """Drop the rows after ``step``: a resumed run writes them again."""
        if not is_first():
            return
        self.save()
        path = Path(self.experiment.metrics_file_path)
        rows = _read_rows(path)
        kept = [row for row in rows if float(row["step"]) <= step]
        if len(kept) < len(rows):
            path.unlink()
            self.experiment.metrics = kept
            self.save()

    def last_step(self) -> float:
        """The largest step of a row; 0 on other processes than the first, or without rows."""
        if not is_first():
            return 0
        self.save()
        rows = _read_rows(Path(self.experiment.metrics_file_path))
        return max((float(row["step"]) for row in rows), default=0)

    @property
    def log_dir(self) -> str:
        """The run folder itself."""
        return self.root_dir


def _read_rows(path: Path) -> list[dict[str, float | int | str]]:
    """The whole rows of a CSV file; a kill may have cut the last one short."""
    if not path.exists():
        return []
    with open(path, newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("step")]
    return [
        {key: _number(value) for key, value in row.items() if value}
        for row in rows
        if isinstance(_number(row["step"]), (int, float))
    ]


def _number(text: str) -> float | int | str:
    try:
        value = float(text)
    except ValueError:
        return text
    return int(value) if value.is_integer() and "." not in text and "e" not in text else value


def close(loggers: Sequence[Logger], status: str) -> None:
    """Finish every logger, the dashboards first: the run's own record may raise."""
    for logger in loggers:
        if isinstance(logger, Steady):
            logger.finish(status)
    for logger in loggers:
        if not isinstance(logger, Steady):
            logger.finalize(status)
