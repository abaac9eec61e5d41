"""Loggers that live as long as the run, and what is sent to them."""

from __future__ import annotations

import csv
import importlib.util
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger, Logger
from pytorch_lightning.utilities import rank_zero_only

from thinet.errors import ThinetError

X_AXIS = "compression_rate"
"""Fraction of the baseline's FLOPs that is removed: the x axis of every stage's figures."""

GROUP = "THINET_SWEEP"
"""Names the sweep of a point; processes that a launcher starts inherit it. (W&B reads its own
variable, ``WANDB_RUN_GROUP``, once for a process, so that later runs would belong to it too.)"""


class RunCSVLogger(CSVLogger):
    """``metrics.csv`` in the run folder, continued when a run is resumed.

    Lightning's own logger replaces the file; this one takes up the rows that are there.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder), name="", version="")
        if _is_first():
            rows = _read_rows(folder / "metrics.csv")
            self.experiment.metrics = rows  # making the experiment removes the file
            self.save()

    def rewind(self, step: int) -> None:
        """Drop the rows after ``step``: a resumed run writes them again."""
        if not _is_first():
            return
        self.save()
        path = Path(self.experiment.metrics_file_path)
        rows = _read_rows(path)
        kept = [row for row in rows if float(row["step"]) <= step]
        if len(kept) < len(rows):
            path.unlink()
            self.experiment.metrics = kept
            self.save()

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


def _is_first() -> bool:
    return int(getattr(rank_zero_only, "rank", 0) or 0) == 0


def _number(text: str) -> float | int | str:
    try:
        value = float(text)
    except ValueError:
        return text
    return int(value) if value.is_integer() and "." not in text and "e" not in text else value


def has_wandb_key() -> bool:
    """Whether W&B can log in without asking: a key in the environment or in ``.netrc``."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    import netrc

    try:
        base = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
        host = base.partition("://")[2].partition("/")[0].partition(":")[0]
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def make_wandb(settings: Mapping[str, Any], folder: Path, name: str, run_id: str) -> Logger:
    """A W&B logger, offline by itself where there is no key.

    Args:
        settings: ``project``, ``entity``, ``group`` (of a sweep's points by default its name,
            see :data:`GROUP`), ``tags``, ``mode`` (``auto``, ``online``, ``offline``).
        folder: The run folder.
        name: Of the run.
        run_id: Stable over resumes.
    """
    from pytorch_lightning.loggers import WandbLogger

    mode = settings.get("mode", "auto")
    if mode not in ("auto", "online", "offline"):
        raise ThinetError(f"logger.wandb.mode={mode} is unknown: choose auto, online or offline.")
    offline = mode == "offline" or (mode == "auto" and not has_wandb_key())
    if offline and mode == "auto" and _is_first():
        print(f"W&B: no key found, logging offline; upload later with: wandb sync {folder}/wandb/*")
    os.environ.setdefault("WANDB_SILENT", "true")
    logger = WandbLogger(
        project=settings.get("project") or "thinet",
        entity=settings.get("entity"),
        group=settings.get("group")
        or os.environ.get("WANDB_RUN_GROUP")
        or os.environ.get(GROUP)
        or None,
        tags=list(settings.get("tags") or []),
        name=name,
        id=run_id,
        resume="allow",
        save_dir=str(folder),
        offline=offline,
    )
    if _is_first():
        run = logger.experiment
        run.define_metric(X_AXIS)
        run.define_metric("stage/*", step_metric=X_AXIS)
        run.define_metric("sensitivity_top1/*", step_metric="trainer/global_step")
        run.define_metric("sensitivity_divergence/*", step_metric="trainer/global_step")
        run.define_metric("train/*", step_metric="trainer/global_step")
        run.define_metric("val/*", step_metric="trainer/global_step")
    return logger


def make_tensorboard(settings: Mapping[str, Any], folder: Path, name: str, run_id: str) -> Logger:
    """A TensorBoard logger that writes below the run folder."""
    from pytorch_lightning.loggers import TensorBoardLogger

    try:
        return TensorBoardLogger(str(folder), name="tensorboard", version="")
    except ModuleNotFoundError as error:
        raise ThinetError(
            "logger=tensorboard needs a package that is not installed: "
            "type pip install 'thinet[tensorboard]'."
        ) from error


def make_mlflow(settings: Mapping[str, Any], folder: Path, name: str, run_id: str) -> Logger:
    """An MLflow logger; without a tracking address it writes below the run folder."""
    from pytorch_lightning.loggers import MLFlowLogger

    uri = settings.get("tracking_uri") or _local_store(folder.absolute())
    try:
        return MLFlowLogger(
            experiment_name=settings.get("experiment_name") or "thinet",
            run_name=name,
            tracking_uri=uri,
            artifact_location=settings.get("artifact_location"),
        )
    except ModuleNotFoundError as error:
        raise ThinetError(
            "logger=mlflow needs a package that is not installed: "
            "type pip install 'thinet[mlflow]'."
        ) from error


def _local_store(folder: Path) -> str:
    """MLflow's database, or plain files where ``mlflow-skinny`` comes without a database layer."""
    if importlib.util.find_spec("sqlalchemy") and importlib.util.find_spec("alembic"):
        return f"sqlite:///{folder}/mlflow.db"
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    return f"file:{folder}/mlruns"


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
    from pytorch_lightning.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger

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
    """Finish every logger; W&B keeps the process alive otherwise."""
    from pytorch_lightning.loggers import WandbLogger

    for logger in loggers:
        logger.finalize(status)
        if isinstance(logger, WandbLogger) and _is_first():
            logger.experiment.finish(exit_code=0 if status == "success" else 1)
