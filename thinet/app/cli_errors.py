"""Between Hydra and the user: errors become one sentence and an exit code."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException, MissingConfigException, OverrideParseException

from thinet.app.config_policy import SEVERAL, install
from thinet.base import lifeline
from thinet.base.collective import leave_group
from thinet.base.errors import Terminated, ThinetError, Unread, first_line
from thinet.base.messages import is_first_process, is_unread, silence
from thinet.base.system_errors import is_lost_process, system_error
from thinet.run.identity import register_resolvers

__all__ = ["SweepErrors", "errors_as_sentences", "register_resolvers", "sentence", "sweep_errors"]

install()  # here, so that the processes of a sweep have it too: they import this by its callback
_EXTRAS = {"joblib": "joblib", "submitit_local": "submitit", "submitit_slurm": "submitit",
           "ray": "ray", "optuna": "optuna", "tpe": "optuna"}  # fmt: skip
_DEAD_WORKER = ("TerminatedWorkerError", "WorkerCrashedError", "UncompletedJobError")


@dataclass
class SweepErrors:
    """Errors of a sweep's points, told at its end and not in the middle of it.

    Attributes:
        found: Of the points that failed.
        deferred: Whether a failed point counts as one without a result, so that Hydra's own sweeper
            goes on with the next batch. A search has to be told of the failure.
        running: Whether a sweep is under way in this process.
    """

    found: list[BaseException] = field(default_factory=list)
    deferred: bool = False
    running: bool = False

    def begin(self, deferred: bool) -> None:
        """A sweep starts."""
        self.found.clear()
        self.deferred, self.running = deferred, True

    def end(self) -> None:
        """It has come to its end."""
        self.running = False

    def reset(self) -> None:
        """Forget whatever an earlier sweep of this process left."""
        self.found.clear()
        self.deferred = self.running = False


sweep_errors = SweepErrors()


def errors_as_sentences(main: Callable[[], Any]) -> None:
    """Call a Hydra main function; print what goes wrong as one sentence, without a traceback.

    ``traceback=true`` on the command line, or ``HYDRA_FULL_ERROR=1``, shows the traceback.
    Exit codes: 2 for something the user can put right, 1 for anything else, 130 for Ctrl-C, 143
    for SIGTERM, 141 if what read the output has ended.
    """
    sweep_errors.reset()
    setting = os.environ.get("HYDRA_FULL_ERROR")
    # What other processes of the run inherit is the setting made below, and not the user's.
    asked = (bool(setting) and not lifeline.belongs()) or "traceback=true" in sys.argv
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra would print its own kind of message
    JobReturn.return_value = property(_value, JobReturn.return_value.fset)  # type: ignore
    try:
        with lifeline.answering():
            _call(main, asked)
    finally:
        leave_group()
        os.environ.pop("HYDRA_FULL_ERROR")
        if setting is not None:
            os.environ["HYDRA_FULL_ERROR"] = setting


def _call(main: Callable[[], Any], asked: bool) -> None:
    """Call it, and end the process if it fails or is told to end."""
    try:
        _try(main, asked)
    except KeyboardInterrupt:
        _leave(*lifeline.INTERRUPTED)
    except Unread:
        silence(sys.stdout)
        _leave(*lifeline.UNREAD)
    except Terminated as told:
        if not is_first_process() and (told.agreed or not lifeline.belongs()):
            sys.exit(0)  # else a launcher would kill the first one before it has said so
        _leave(*lifeline.STOPPED)


def _try(main: Callable[[], Any], asked: bool) -> None:
    """Call it; an error becomes a sentence, or shows its traceback if that is asked for."""
    try:
        main()
        sys.stdout.flush()
    except Exception as error:
        if isinstance(error, BrokenPipeError) and is_unread(sys.stdout):
            raise Unread from None
        if asked:
            lifeline.leave(1)
            raise
        text, code = sentence(error)
        if not is_first_process() and (_first_has_ended() or is_lost_process(error)):
            sys.exit(code)  # that one has said why
        found = lifeline.why_another_ended() if is_lost_process(error) else None
        if found is not None:
            _leave(*found)
        print(f"error: {text}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        lifeline.leave(code)
        sys.exit(code)
    if sweep_errors.found:
        first, others = sweep_errors.found[0], len(sweep_errors.found) - 1
        if asked:
            raise first
        text, code = sentence(first)
        more = (
            f" ({others} more points failed: the sweep's table has the reasons)" if others else ""
        )
        print(f"error: {text}{more}", file=sys.stderr)
        sys.exit(code)


def _leave(code: int, text: str) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    lifeline.leave(code, text)
    sys.exit(code)


def _first_has_ended(patience: float = 15.0) -> bool:
    """Wait for the process that started this one, which mostly ends for the same reason."""
    first, end = os.getppid(), time.monotonic() + patience
    while os.getppid() == first and time.monotonic() < end:
        time.sleep(0.1)
    return os.getppid() != first


def _value(job: JobReturn) -> Any:
    """What a job returned or raised, without the line that Hydra writes before it raises."""
    if job.status == JobStatus.FAILED:
        if sweep_errors.running and job._return_value not in sweep_errors.found:
            sweep_errors.found.append(job._return_value)
        if sweep_errors.running and sweep_errors.deferred:
            return None
        raise job._return_value
    return job._return_value


def sentence(error: BaseException) -> tuple[str, int]:
    """What an exception means for the user, and the exit code."""
    if isinstance(error, ThinetError):
        return " ".join(str(error).split()), 2
    if isinstance(error, MissingConfigException):
        return _missing_option(error), 2
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override!r} is not of the form key=value (quote values with special "
            "characters): python run.py --help shows examples.",
            2,
        )
    if isinstance(error, HydraException) or "Config group override" in str(error):
        return _composition(error), 2
    from_outside = system_error(error)
    if from_outside is not None:
        return from_outside, 2
    if type(error).__name__ in _DEAD_WORKER:
        return (
            "a worker of the sweep died (killed, or too little memory for so many at once): type "
            "the same command again, finished points are not repeated.",
            2,
        )
    text = f"unexpected {type(error).__name__}: {first_line(error)}"
    return f"{text}; add traceback=true to see where, and please report it.", 1


def _missing_option(error: MissingConfigException) -> str:
    missing = str(error.missing_cfg_file or "")
    group, _, option = missing.rpartition("/")
    options = [str(option) for option in error.options or []]
    if group.startswith("hydra/") and option in _EXTRAS:
        extra = _EXTRAS[option]
        return (
            f"{option} needs a package that is not installed: type pip install 'thinet[{extra}]'."
        )
    if not options:
        return f"{first_line(error)}: python run.py --help lists the options."
    near = get_close_matches(option, options, n=1)
    hint = f"did you mean {group}={near[0]}? " if near else ""
    return f"{group}={option} does not exist; {hint}Choose among {', '.join(options)}."


def _composition(error: BaseException) -> str:
    text = str(error)
    there = re.search(r"Could not append to config.*'([^']+)'\.", text)
    if there:
        return f"{there[1]!r} is there already: type it without the + in front."
    ambiguous = re.search(r"Ambiguous value for argument '([^=]+)=(.*)'", text)
    if ambiguous:
        key, value = ambiguous.groups()
        start = f"{key}={value} is several values: add -m to run one after the other, or type "
        if _is_group(key) and key not in SEVERAL:
            return f"{start}one of them."
        return f"{start}{key}=[{value}] for a list, or quotes within quotes for a text with commas."
    found = re.search(r"Could not (?:override|delete from config\.) '([^']+)'", text)
    if not found:
        cause = error.__cause__
        more = f" ({first_line(cause)})" if cause is not None else ""
        return f"{first_line(error)}{more}: python run.py --help lists groups and keys."
    key = found.group(1)
    elsewhere = _options_with(key)
    if elsewhere:
        group = key.partition(".")[0]
        return f"there is no key {key!r} here; it belongs to {group}={', '.join(elsewhere)}."
    known = _known_keys()
    near = get_close_matches(key, known, n=1, cutoff=0.6)
    if not near:
        leaf = key.rpartition(".")[2]
        near = [name for name in known if name.rpartition(".")[2] == leaf][:1]
    hint = f"did you mean {near[0]}? " if near else ""
    return f"there is no key {key!r}; {hint}python run.py --help lists groups and keys."


def _is_group(key: str) -> bool:
    return (Path(sys.argv[0]).resolve().parent / "conf" / key).is_dir()


def _options_with(key: str) -> list[str]:
    """Options of a group that have a key which the chosen one lacks, such as dataset.root."""
    from omegaconf import OmegaConf

    group, _, leaf = key.partition(".")
    files = sorted((Path(sys.argv[0]).resolve().parent / "conf" / group).glob("[!_]*.yaml"))
    return [file.stem for file in files if leaf and leaf in OmegaConf.load(file)]


def _known_keys() -> list[str]:
    """Groups and dotted keys of the default configuration."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import DictConfig

    folder = Path(sys.argv[0]).resolve().parent / "conf"
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(folder), version_base="1.3"):
            cfg = compose("config")
    except Exception:  # a hint is not worth a second error
        return []
    names = [path.name for path in folder.iterdir() if path.is_dir()]

    def walk(node: DictConfig, prefix: str) -> None:
        for key in map(str, node):
            names.append(f"{prefix}{key}")
            child = node._get_node(key)
            if isinstance(child, DictConfig):
                walk(child, f"{prefix}{key}.")

    walk(cfg, "")
    return names
