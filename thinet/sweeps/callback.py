"""What a sweep (``-m``) writes: one table and one figure over all its points, on any launcher."""

from __future__ import annotations

import atexit
import hashlib
import multiprocessing
import os
import pickle
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from thinet.app.cli_errors import sentence, sweep_errors
from thinet.app.processes import check_workers
from thinet.base.errors import BusyError, ThinetError
from thinet.base.files import write_json_atomic
from thinet.base.folders import new_folders, remove_empty
from thinet.base.lifeline import end_with
from thinet.base.messages import is_first_process
from thinet.run.folders import check_run_folder
from thinet.run.identity import fingerprint, plain, run_folder, settings_of
from thinet.sweeps.registry import SweepFolder

FAILURE = "failure.json"
GROUP = "THINET_SWEEP"  # as thinet.engine.logging.loggers reads it, in any process of the sweep
_passing: list[tuple[int, Path, list[Path]]] = []
_BEST = "optimization_results.yaml"  # as Hydra's optuna sweeper calls it


class SweepCallback(Callback):
    """Writes the table and the figure anew after every point, so that a kill loses neither.

    Launchers copy the callback into their workers, so it holds nothing but what finds the files.
    """

    def __init__(self) -> None:
        self._table: SweepFolder | None = None
        self._grouped = False
        self._parent = os.getpid()
        self._start_method = multiprocessing.get_start_method()

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Choose the folder; the same sweep typed again has the same one, whatever runs it."""
        try:
            check_objective(config)
            check_workers(OmegaConf.to_container(config.hydra.launcher), _accelerator(config))
            self._begin(config)
        except Exception as error:  # Hydra makes a warning of what a callback raises
            text, code = sentence(error)
            print(f"error: {text}", file=sys.stderr)
            sys.exit(code)

    def _begin(self, config: DictConfig) -> None:
        sweep_errors.begin(deferred="basic" in str(config.hydra.sweeper._target_).lower())
        outputs = Path(config.paths.outputs)
        self._table = SweepFolder(outputs / "sweeps" / _folder_name(config))
        if config.dry_run is True:
            place = _passing_folder(outputs)
        else:
            place = self._table.out
            self._table.begin()
        config.hydra.sweep.dir = str(place)  # for what sweepers and launchers write
        _let_workers_import_thinet()

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write the table once more."""
        sweep_errors.end()
        _remove_passing()
        if self._table is None or config.dry_run is True:
            return
        line = self._table.write()
        if line is not None and "basic" not in str(config.hydra.launcher._target_):
            print(line, flush=True)  # what workers print may be in files of theirs
        best = Path(config.hydra.sweep.dir) / _BEST
        if "optuna" in str(config.hydra.sweeper._target_) and best.exists():
            best = best.replace(self._table.out / "best.yaml")
            print(f"sweep: the best point is in {best}", flush=True)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Name the sweep in the process of the point, for dashboards."""
        # Ray's workers end by themselves, and submitit's are jobs of their own.
        if config.hydra.mode == RunMode.MULTIRUN and "joblib" in config.hydra.launcher._target_:
            end_with(self._parent)
            # joblib's own way of starting processes is the default there; a loader's fail by it.
            multiprocessing.set_start_method(self._start_method, force=True)
        if self._table is not None and GROUP not in os.environ:
            os.environ[GROUP] = self._table.out.name
            self._grouped = True

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Take a point in, finished or failed; a failed one does not stop the others."""
        if self._grouped:  # a run that the same process starts later is not of this sweep
            os.environ.pop(GROUP, None)
            self._grouped = False
        if config.hydra.mode != RunMode.MULTIRUN or self._table is None or config.dry_run is True:
            return
        job_return.cfg = job_return.hydra_cfg = None  # Hydra would hold every point's until the end
        failed = job_return.status == JobStatus.FAILED
        if failed:
            text, code = sentence(job_return._return_value)
            _make_portable(job_return, text, code)
        if not is_first_process():
            return
        folder = run_folder(config)
        if isinstance(job_return._return_value, BusyError):
            print(f"this point is being run by another process: {text}", flush=True)
            return
        if failed:
            if _is_own(folder, config):
                write_json_atomic(folder / FAILURE, {**_point(config), "error": text})
            print(f"this point failed: {text}", flush=True)
        else:
            (folder / FAILURE).unlink(missing_ok=True)
        self._table.take_in(config.hydra.job.num, folder, failed)
        line = self._table.write()
        if line is not None:
            print(line, flush=True)


def check_objective(config: DictConfig) -> None:
    """Refuse a search where points cannot be told apart; points that were typed need no telling.

    Raises:
        ThinetError: If points are searched for, and there are no images to measure them on.
    """
    if "basic" in str(config.hydra.sweeper._target_).lower() or config.dataset.name != "none":
        return
    raise ThinetError(
        "a search looks for the best accuracy on validation images, and dataset=none has none: "
        "type a data set, for example dataset=digits, or no sweep=optuna and the values to "
        "compare, for example seed=0,1."
    )


def _folder_name(config: DictConfig) -> str:
    overrides = sorted(config.hydra.overrides.task)
    same = [text for text in overrides if not text.startswith(("sweep=", "resume="))]
    pairs = [text.partition("=") for text in same]
    swept = "-".join(key for key, _, value in pairs if "," in value and value[0] not in "[{")
    digest = hashlib.sha256("\n".join(same).encode()).hexdigest()[:8]
    return f"{swept.replace('/', '_') or 'sweep'}-{digest}"


def _passing_folder(outputs: Path) -> Path:
    """A folder for what Hydra writes in a dry run, which leaves nothing."""
    made = new_folders(outputs)
    outputs.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix=".dry_run-", dir=outputs))
    _passing.append((os.getpid(), place, made))
    return place


@atexit.register
def _remove_passing() -> None:
    while _passing:
        process, place, made = _passing.pop()
        if process == os.getpid():
            shutil.rmtree(place, ignore_errors=True)
            remove_empty(made)


def _is_own(folder: Path, config: DictConfig) -> bool:
    """Whether a point that failed may leave a file in a folder."""
    try:
        check_run_folder(folder, fingerprint(config))
    except Exception:  # what made it fail may be in the way here, too
        return not folder.exists()
    return True


def _accelerator(config: DictConfig) -> str:
    return str(config.trainer.accelerator)


def _let_workers_import_thinet() -> None:
    """Workers do not start from run.py, so they would find only an installed thinet."""
    here = str(Path(__file__).resolve().parents[2])
    path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if here not in path:
        os.environ["PYTHONPATH"] = os.pathsep.join([here, *filter(None, path)])


def _make_portable(job_return: JobReturn, text: str, code: int) -> None:
    """Replace an error that cannot travel to the parent: it would end the whole sweep there."""
    try:
        pickle.loads(pickle.dumps(job_return._return_value))
    except Exception:
        job_return._return_value = ThinetError(text) if code == 2 else RuntimeError(text)


def _point(config: DictConfig) -> dict[str, Any]:
    """What is known of a point that failed."""
    known = plain(config)
    names = {key: str(known[key]["name"]) for key in ("method", "model", "dataset")}
    return {**settings_of(known), **names, "name": str(known["name"]), "seed": known["seed"]}
