"""What a sweep (``-m``) writes: one table and one figure over all its points."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from thinet.config import plain, run_folder
from thinet.errors import ThinetError
from thinet.files import write_json_atomic
from thinet.guard import sentence

FAILURE = "failure.json"
GROUP = "THINET_SWEEP"  # as thinet.engine.loggers reads it, in any process of the sweep
_GROUPS = ("method", "model", "dataset", "criterion", "schedule")


class SweepCallback(Callback):
    """Writes the table and the figure anew after every point, so that a kill loses neither."""

    def __init__(self) -> None:
        self._folders: list[Path] = []
        self._failed = 0
        self._out: Path | None = None
        self._grouped = False

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Choose the folder; the same sweep typed again has the same one."""
        overrides = sorted(config.hydra.overrides.task)
        swept = "-".join(text.partition("=")[0] for text in overrides if "," in text) or "sweep"
        digest = hashlib.sha256("\n".join(overrides).encode()).hexdigest()[:8]
        self._out = Path(config.paths.outputs) / "sweeps" / f"{swept.replace('/', '_')}-{digest}"
        if GROUP not in os.environ:
            os.environ[GROUP] = self._out.name
            self._grouped = True

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """A run that the same process starts later is not of this sweep."""
        if self._grouped:
            os.environ.pop(GROUP, None)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Take a point in, finished or failed; a failed one does not stop the others."""
        if config.hydra.mode != RunMode.MULTIRUN or self._out is None or config.dry_run is True:
            return
        folder = run_folder(config)
        if job_return.status == JobStatus.FAILED:
            self._failed += 1
            text = sentence(job_return._return_value)[0]
            write_json_atomic(folder / FAILURE, {**_point(config), "error": text})
            print(f"this point failed: {text}", flush=True)
        else:
            (folder / FAILURE).unlink(missing_ok=True)
        self._folders.append(folder)
        from thinet.report.sweep import write_sweep

        try:
            table, figure = write_sweep(self._folders, self._out)
        except ThinetError as error:  # points that cannot be compared are points all the same
            print(f"sweep: {len(self._folders)} points; no figure: {error}", flush=True)
            return
        failed = f", {self._failed} failed" if self._failed else ""
        print(f"sweep: {len(self._folders)} points{failed}; {table} and {figure.name}", flush=True)


def _point(config: DictConfig) -> dict[str, Any]:
    names = {key: str(config[key].name) for key in _GROUPS}
    ratio = config.ratio if config.target is None else config.target
    if OmegaConf.is_config(ratio):
        ratio = plain(config)["ratio"]  # a mapping
    return {
        **names,
        "name": str(config.name),
        "reconstruction": str(config.reconstruction.name),
        "allocation": str(config.allocation),
        "ratio": ratio,
        "seed": config.seed,
    }
