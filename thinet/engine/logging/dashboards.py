"""The dashboards: W&B, TensorBoard and MLflow, each of which may fail without harm to the run."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger

from thinet.base.errors import ThinetError
from thinet.base.messages import say
from thinet.base.records import JSON
from thinet.engine.logging.background import LOCAL, Steady, is_first, reason

Settings = Mapping[str, JSON]
"""What the configuration says of one dashboard."""

X_AXIS = "compression_rate"
"""Fraction of the reference's FLOPs that is removed: the x axis of every step's figures."""

GROUP = "THINET_SWEEP"
"""Names the sweep of a point; processes that a launcher starts inherit it. (W&B reads its own
variable, ``WANDB_RUN_GROUP``, once for a process, so that later runs would belong to it too.)"""

FATAL = "ERROR+4"
"""How W&B's service marks in its log that it has stopped uploading, which it tells nobody else."""


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


def make_wandb(settings: Settings, folder: Path, name: str, run_id: str) -> Steady:
    """A W&B logger, offline by itself where there is no key or no answer.

    Args:
        settings: ``project``, ``entity``, ``group`` (of a sweep's points by default its name,
            see :data:`GROUP`), ``tags``, ``mode`` (``auto``, ``online``, ``offline``), and the
            seconds to wait for a server that does not answer, ``start_timeout`` and
            ``finish_timeout``.
        folder: The run folder.
        name: Of the run.
        run_id: Stable over resumes.

    Raises:
        ThinetError: If there is no such mode.
    """
    mode = settings.get("mode", "auto")
    if mode not in ("auto", "online", "offline"):
        raise ThinetError(f"logger.wandb.mode={mode} is unknown: choose auto, online or offline.")
    offline = mode == "offline" or (mode == "auto" and not has_wandb_key())
    if offline and mode == "auto" and is_first():
        say(f"W&B: no key found, logging offline; upload later with: wandb sync {folder}/wandb/*")
    os.environ.setdefault("WANDB_SILENT", "true")

    def build() -> Logger:
        if offline or not is_first():
            return _wandb_logger(settings, folder, name, run_id, offline)
        try:
            return _wandb_logger(settings, folder, name, run_id, offline=False)
        except Exception as error:
            _restart_wandb()
            logger = _wandb_logger(settings, folder, name, run_id, offline=True)
            say(f"W&B cannot be used now ({reason(error)}): logging offline; {_sync(logger)}")
            return logger

    return Steady("W&B", build, _finish_wandb, _sync)


def _wandb_logger(
    settings: Settings, folder: Path, name: str, run_id: str, offline: bool
) -> Logger:
    """Start a run; not by ``offline=True``, with which Lightning sends all later runs offline."""
    from pytorch_lightning.loggers import WandbLogger

    logger = WandbLogger(
        project=_text(settings, "project") or "thinet",
        entity=_text(settings, "entity"),
        group=_text(settings, "group")
        or os.environ.get("WANDB_RUN_GROUP")
        or os.environ.get(GROUP)
        or None,
        tags=_texts(settings, "tags"),
        name=name,
        id=run_id,
        resume="allow",
        save_dir=str(folder),
        settings=_timeouts(settings),
        mode="offline" if offline else None,
    )
    if is_first():
        run = logger.experiment
        run.define_metric(X_AXIS)
        run.define_metric("stage/*", step_metric=X_AXIS)
        run.define_metric("train/*", step_metric="trainer/global_step")
        run.define_metric("val/*", step_metric="trainer/global_step")
    return logger


def _timeouts(settings: Settings) -> Any:
    """W&B by itself waits for ever at the end of a run whose server is gone."""
    import wandb

    wanted = {
        "init_timeout": _seconds(settings, "start_timeout", 30),
        "finish_timeout": _seconds(settings, "finish_timeout", 300),
        "finish_timeout_raises": True,
    }
    # Older versions have no finish_timeout; the user's own environment goes first.
    known: Any = {
        key: value
        for key, value in wanted.items()
        if key in wandb.Settings.model_fields and f"WANDB_{key.upper()}" not in os.environ
    }
    return wandb.Settings(**known)


def _text(settings: Settings, key: str) -> str | None:
    value = settings.get(key)
    return None if value in (None, "") else str(value)


def _texts(settings: Settings, key: str) -> list[str]:
    found = settings.get(key)
    return [str(one) for one in found] if isinstance(found, list) else []


def _seconds(settings: Settings, key: str, usual: float) -> float:
    found = settings.get(key)
    return float(found) if isinstance(found, int | float) and found else usual


def _sync(logger: Any) -> str:
    """How to upload what W&B has on disk."""
    run = getattr(logger, "_experiment", None)
    if run is None:
        return LOCAL
    return f"upload later with: wandb sync {Path(run.dir).parent}"


def _finish_wandb(logger: Any, code: int) -> None:
    """End the run; W&B keeps the process alive otherwise.

    Raises:
        ConnectionError: If not everything has been uploaded.
        Exception: Whatever W&B raises.
    """
    run = logger.experiment
    try:
        run.finish(exit_code=code)
    except TimeoutError as error:
        raise ConnectionError("its server does not answer, or too slowly") from error
    except Exception:
        _restart_wandb()
        raise
    fatal = next(_fatal(Path(run.settings.log_internal)), None)
    if fatal is not None:
        raise ConnectionError(fatal)


def _fatal(log: Path) -> Iterator[str]:
    """What made W&B's service stop uploading, by its own log."""
    with contextlib.suppress(OSError), open(log, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if f'"{FATAL}"' in line:
                with contextlib.suppress(ValueError):
                    yield str(json.loads(line)["msg"]).partition(" url=")[0]


def _restart_wandb() -> None:
    """A service that has failed fails every later run of the process, too."""
    import wandb

    with contextlib.suppress(Exception):
        wandb.teardown()
    wandb.run = None  # a run that could not be finished; the next logger would go on in it


def make_tensorboard(settings: Settings, folder: Path, name: str, run_id: str) -> Steady:
    """A TensorBoard logger that writes below the run folder."""
    from pytorch_lightning.loggers import TensorBoardLogger

    def build() -> Logger:
        try:
            return TensorBoardLogger(str(folder), name="tensorboard", version="")
        except ModuleNotFoundError as error:
            raise ThinetError(
                "logger=tensorboard needs a package that is not installed: "
                "type pip install 'thinet[tensorboard]'."
            ) from error

    return Steady("TensorBoard", build)


def make_mlflow(settings: Settings, folder: Path, name: str, run_id: str) -> Steady:
    """An MLflow logger; without a tracking address it writes below the run folder."""
    from pytorch_lightning.loggers import MLFlowLogger

    # Its own seven attempts at each request, of up to two minutes, would hold a run up.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")

    def build() -> Logger:
        try:
            return MLFlowLogger(
                experiment_name=_text(settings, "experiment_name") or "thinet",
                run_name=name,
                tracking_uri=_text(settings, "tracking_uri") or local_store(folder.absolute()),
                artifact_location=_text(settings, "artifact_location"),
            )
        except ModuleNotFoundError as error:
            raise ThinetError(
                "logger=mlflow needs a package that is not installed: "
                "type pip install 'thinet[mlflow]'."
            ) from error

    return Steady("MLflow", build)


def local_store(folder: Path) -> str:
    """MLflow's database, or plain files where ``mlflow-skinny`` comes without a database layer."""
    if importlib.util.find_spec("sqlalchemy") and importlib.util.find_spec("alembic"):
        return f"sqlite:///{folder}/mlflow.db"
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    return f"file:{folder}/mlruns"


DASHBOARDS = {"wandb": make_wandb, "tensorboard": make_tensorboard, "mlflow": make_mlflow}
"""What sends a run to a dashboard, by the name of the option."""
