"""What a run sends to its loggers: the configuration, figures of its steps, its result."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger, Logger
from pytorch_lightning.utilities import rank_zero_only

from thinet.base.records import JSON
from thinet.engine.logging.background import Steady
from thinet.engine.logging.dashboards import X_AXIS

COSTS = ("flops", "params", "bits", "size_mb")
"""Figures of which the part that was removed is sent, too."""


@dataclass(frozen=True)
class Summary:
    """What the dashboards show of a finished run.

    Attributes:
        name: Of the run.
        reference: Figures of the network that is compared with, by name; None where unknown.
        model: The same of the network that was made.
        folder: Where that one is saved.
        charts: Pictures.
        tables: Rows of one kind by the table's name.
    """

    name: str
    reference: Mapping[str, float | None]
    model: Mapping[str, float | None]
    folder: Path
    charts: Sequence[Path] = ()
    tables: Mapping[str, Sequence[Mapping[str, JSON]]] = field(default_factory=dict)

    def numbers(self) -> dict[str, float]:
        """Every known figure, as ``reference/<name>``, ``model/<name>``, ``model/<cost>_removed``.

        Runs of different methods have the same names, so that a dashboard can compare them.
        """
        found = {
            f"{whose}/{name}": value
            for whose, figures in (("reference", self.reference), ("model", self.model))
            for name, value in figures.items()
            if value is not None
        }
        for cost in COSTS:
            before, after = self.reference.get(cost), self.model.get(cost)
            if before and after is not None:
                found[f"model/{cost}_removed"] = 1 - after / before
        return found


@rank_zero_only
def log_config(loggers: Sequence[Logger], config: Mapping[str, JSON]) -> None:
    """Send the configuration to the dashboards; the run folder has it in ``.hydra``."""
    for logger in loggers:
        if not isinstance(logger, CSVLogger):
            logger.log_hyperparams(dict(config))


@rank_zero_only
def log_step(loggers: Sequence[Logger], figures: Mapping[str, float | None], step: int) -> None:
    """Log the figures of a finished step of a method, against the compression rate.

    Args:
        loggers: Of the run.
        figures: By name, None where unknown; with :data:`X_AXIS` among them W&B draws the others
            against it.
        step: Optimizer steps so far.
    """
    log_figures(
        loggers,
        {
            name if name == X_AXIS else f"stage/{name}": value
            for name, value in figures.items()
            if value is not None
        },
        step,
    )


@rank_zero_only
def log_figures(loggers: Sequence[Logger], figures: Mapping[str, float], step: int) -> None:
    """Log figures under their own names, for instance points of curves.

    Args:
        loggers: Of the run.
        figures: By name; a name with a slash is drawn among those that have the same beginning.
        step: Where on the axis of steps.
    """
    for logger in loggers:
        logger.log_metrics(dict(figures), step=step)
        logger.save()


@rank_zero_only
def log_picture(loggers: Sequence[Logger], name: str, path: Path, step: int) -> None:
    """Send a picture that is drawn anew from time to time to the dashboards.

    Args:
        loggers: Of the run.
        name: Under which all of them are shown, with a slash.
        path: Of the PNG file.
        step: Optimizer steps so far.
    """
    for logger in loggers:
        if isinstance(logger, Steady):
            logger.send(lambda inner: _show(inner, name, path, step))


def _show(logger: Logger, name: str, path: Path, step: int) -> None:
    from pytorch_lightning.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger

    if isinstance(logger, WandbLogger):
        import wandb

        logger.experiment.log({name: wandb.Image(str(path)), "trainer/global_step": step})
    elif isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image(name, _pixels(path), step, dataformats="HWC")
    elif isinstance(logger, MLFlowLogger):
        logger.experiment.log_artifact(logger.run_id, str(path), name)


@rank_zero_only
def log_result(loggers: Sequence[Logger], summary: Summary) -> None:
    """Send the final figures, the charts and the network to the dashboards that take them."""
    for logger in loggers:
        if isinstance(logger, Steady):
            logger.send(lambda inner: _send(inner, summary))


def _send(logger: Logger, summary: Summary) -> None:
    from pytorch_lightning.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger

    if isinstance(logger, WandbLogger):
        _send_wandb(logger, summary)
    elif isinstance(logger, TensorBoardLogger):
        _send_tensorboard(logger, summary)
    elif isinstance(logger, MLFlowLogger):
        numbers = summary.numbers()
        logger.log_metrics({key.replace("/", "."): value for key, value in numbers.items()})
        for path in [*summary.charts, *sorted(summary.folder.iterdir())]:
            logger.experiment.log_artifact(logger.run_id, str(path))


def _send_wandb(logger: Any, summary: Summary) -> None:
    import wandb

    run, numbers = logger.experiment, summary.numbers()
    run.summary.update(numbers)
    for title, rows in summary.tables.items():
        if rows:
            data = [[row[column] for column in rows[0]] for row in rows]
            run.log({title: wandb.Table(columns=[*rows[0]], data=data)})
    run.log({f"{path.parent.name}/{path.stem}": wandb.Image(str(path)) for path in summary.charts})
    name = re.sub(r"[^\w.-]", "_", summary.name, flags=re.ASCII)[:120]
    artifact = wandb.Artifact(name, type="model", metadata=numbers)
    # No copy in W&B's own folder, which may be on a full or slower disk, for each run of a sweep.
    artifact.add_dir(str(summary.folder), policy="immutable")
    run.log_artifact(artifact)


def _send_tensorboard(logger: Any, summary: Summary) -> None:
    for path in summary.charts:
        name = f"{path.parent.name}/{path.stem}"
        logger.experiment.add_image(name, _pixels(path), dataformats="HWC")
    logger.log_metrics(summary.numbers())
    logger.experiment.flush()


def _pixels(path: Path) -> Any:
    """A picture as ``(H, W, 3)`` of uint8."""
    import numpy as np
    from PIL import Image

    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))
