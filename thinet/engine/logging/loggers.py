"""Loggers that live as long as the run, and what is sent to them."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger, Logger
from pytorch_lightning.utilities import rank_zero_only

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
    "GROUP", "X_AXIS", "RunCSVLogger", "close", "has_wandb_key", "log_config", "log_result",
    "log_sensitivity", "log_stage", "make_mlflow", "make_tensorboard", "make_wandb",
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


def _read_rows(path: Path) -> list[dict[str, Any]]:
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


@rank_zero_only
def log_config(loggers: Sequence[Logger], config: Mapping[str, Any]) -> None:
    """Send the configuration to the dashboards; the run folder has it in ``.hydra``."""
    for logger in loggers:
        if not isinstance(logger, CSVLogger):
            logger.log_hyperparams(dict(config))


@rank_zero_only
def log_stage(loggers: Sequence[Logger], row: Mapping[str, Any], step: int) -> None:
    """Log the figures of one stage against the compression rate."""
    numbers = {
        f"stage/{key}": value
        for key, value in row.items()
        if isinstance(value, (int, float)) and key not in ("index", X_AXIS)
    }
    for logger in loggers:
        logger.log_metrics({**numbers, X_AXIS: row[X_AXIS]}, step=step)
        logger.save()


@rank_zero_only
def log_sensitivity(loggers: Sequence[Logger], cell: Mapping[str, Any]) -> None:
    """Log one measurement: a curve for each layer, over the percentage of its filters kept."""
    numbers = {
        f"sensitivity_{key}/{cell['layer']}": float(cell[key]) for key in ("top1", "divergence")
    }
    for logger in loggers:
        logger.log_metrics(numbers, step=round(100 * cell["ratio"]))
        logger.save()


@rank_zero_only
def log_result(
    loggers: Sequence[Logger], result: Mapping[str, Any], figures: Sequence[Path], model: Path
) -> None:
    """Send the final table, the figures and the slim network to the dashboards that take them."""
    final = result["slim"] or result["baseline"]
    summary = {
        f"{when}/{key}": value
        for when, metrics in (("baseline", result["baseline"]), ("slim", final))
        for key, value in metrics.items()
        if value is not None
    }
    for cost in ("flops", "params"):
        if final.get(cost) and result["baseline"].get(cost):
            summary[f"slim/{cost}_removed"] = 1 - final[cost] / result["baseline"][cost]
    for logger in loggers:
        if isinstance(logger, Steady):
            logger.send(lambda inner: _send_result(inner, result, summary, figures, model))


def _send_result(
    logger: Logger,
    result: Mapping[str, Any],
    summary: Mapping[str, Any],
    figures: Sequence[Path],
    model: Path,
) -> None:
    from pytorch_lightning.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger

    if isinstance(logger, WandbLogger):
        _wandb_result(logger, result, summary, figures, model)
    elif isinstance(logger, TensorBoardLogger):
        _tensorboard_result(logger, summary, figures)
    elif isinstance(logger, MLFlowLogger):
        logger.log_metrics({key.replace("/", "."): value for key, value in summary.items()})
        for path in [*figures, *sorted(model.iterdir())]:
            logger.experiment.log_artifact(logger.run_id, str(path))


def _wandb_result(
    logger: Any,
    result: Mapping[str, Any],
    summary: Mapping[str, Any],
    figures: Sequence[Path],
    model: Path,
) -> None:
    import wandb

    run = logger.experiment
    run.summary.update(dict(summary))
    layers = [{k: v for k, v in layer.items() if k != "kept"} for layer in result["layers"]]
    if layers:
        columns = list(layers[0])
        table = wandb.Table(columns=columns, data=[[row[c] for c in columns] for row in layers])
        run.log({"layers": table})
    run.log({f"{path.parent.name}/{path.stem}": wandb.Image(str(path)) for path in figures})
    name = re.sub(r"[^\w.-]", "_", str(result["name"]), flags=re.ASCII)[:120]
    artifact = wandb.Artifact(name, type="model", metadata=dict(summary))
    # No copy in W&B's own folder, which may be on a full or slower disk, for each run of a sweep.
    artifact.add_dir(str(model), policy="immutable")
    run.log_artifact(artifact)


def _tensorboard_result(logger: Any, summary: Mapping[str, Any], figures: Sequence[Path]) -> None:
    import numpy as np
    from PIL import Image

    for path in figures:
        picture = np.asarray(Image.open(path).convert("RGB"))
        logger.experiment.add_image(f"{path.parent.name}/{path.stem}", picture, dataformats="HWC")
    logger.log_metrics(dict(summary))
    logger.experiment.flush()


def close(loggers: Sequence[Logger], status: str) -> None:
    """Finish every logger, the dashboards first: the run's own record may raise."""
    for logger in loggers:
        if isinstance(logger, Steady):
            logger.finish(status)
    for logger in loggers:
        if not isinstance(logger, Steady):
            logger.finalize(status)
