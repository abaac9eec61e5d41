"""The one loop under every method: steps that are resumed, timed, committed and cleaned up."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from thinet.artifacts.store import Spec, dump_state, save
from thinet.base.errors import DivergedError
from thinet.base.files import write_bytes_atomic
from thinet.base.messages import say
from thinet.engine.logging.sending import log_step
from thinet.metrics import PeakMemory
from thinet.run.result import StepRecord
from thinet.run.session import Session

BASELINE = "steps/baseline.safetensors"
LAST_GOOD = "last_good"
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Done:
    """What a step has done.

    Attributes:
        network: The network after it.
        figures: What was found, by name.
        epochs: Of training.
        said: A line for people.
        note: Called when the step is committed: only then is the method's progress changed.
    """

    network: nn.Module
    figures: dict[str, float | None] = field(default_factory=dict)
    epochs: int = 0
    said: str = ""
    note: Callable[[], None] | None = None


@dataclass(frozen=True)
class Step:
    """A piece of a method's work that is finished or done again.

    Attributes:
        name: For people.
        work: Takes the network and a folder of the step's own, in which it may keep what an
            interrupted attempt has done; the folder is emptied when the step is committed.
    """

    name: str
    work: Callable[[nn.Module, Path], Done]


@dataclass(frozen=True)
class Keeping:
    """What the loop keeps on the disk.

    Attributes:
        network: Whether the steps change the network, which is then written after each of them.
        baseline: Whether the baseline is needed until the last step.
        spec: The spec of the network as it is now.
        restore: The network from the weights in a file.
    """

    network: bool = True
    baseline: bool = False
    spec: Callable[[], Spec] | None = None
    restore: Callable[[Path], nn.Module] | None = None


def run_steps(
    session: Session[Any], steps: Sequence[Step], network: nn.Module, keeping: Keeping
) -> nn.Module:
    """Do the steps that an earlier attempt has not finished.

    Args:
        session: Of the run.
        steps: All of them, in order.
        network: As the last finished one left it.
        keeping: What stays on the disk.

    Returns:
        The network after the last step.

    Raises:
        DivergedError: If a training diverges; the network of the last finished step is saved.
    """
    finished = len(session.state.steps)
    if finished and session.writes:  # a kill may have come between commit and removal
        _clean_up(session, finished - 1, keeping, last=finished == len(steps))
    for index in range(finished, len(steps)):
        step, folder = steps[index], session.step_folder(index)
        began, memory = time.monotonic(), PeakMemory(session.engine.device)
        try:
            done = step.work(network, folder)
        except DivergedError as error:
            raise _keep_last_good(session, keeping, error, len(steps)) from error
        network = done.network
        record = StepRecord(
            index, step.name, time.monotonic() - began, done.epochs, memory.mb(), memory.of,
            done.figures,
        )  # fmt: skip
        _commit(session, record, done, keeping, last=index == len(steps) - 1)
    return network


def _commit(
    session: Session[Any], record: StepRecord, done: Done, keeping: Keeping, last: bool
) -> None:
    """Record a finished step; only then is what it needed to resume removed."""
    folder = session.step_folder(record.index)
    if done.note is not None:
        done.note()
    session.state.steps.append(record)
    if session.writes and keeping.network:
        write_bytes_atomic(folder / WEIGHTS, dump_state(done.network))
    session.save()
    if session.writes:
        _clean_up(session, record.index, keeping, last)
    if record.figures:
        row = {"epochs": record.epochs, "seconds": record.seconds,
               "peak_memory_mb": record.peak_memory_mb, **record.figures}  # fmt: skip
        log_step(session.engine.loggers, row, session.engine.step)
    if done.said:
        say(done.said)


def _clean_up(session: Session[Any], index: int, keeping: Keeping, last: bool) -> None:
    folder = session.step_folder(index)
    for path in folder.glob("*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != WEIGHTS:
            path.unlink(missing_ok=True)
    if session.setup.keep_steps or not keeping.network:
        return
    done = [session.step_folder(index - 1) / WEIGHTS] if index else []
    if last or not keeping.baseline:
        done.append(session.folder / BASELINE)
    for path in done:
        path.unlink(missing_ok=True)


def last_good(session: Session[Any]) -> Path:
    """The weights of the last finished step that changed the network, or of the baseline."""
    done = len(session.state.steps)
    return session.step_folder(done - 1) / WEIGHTS if done else session.folder / BASELINE


def _keep_last_good(
    session: Session[Any], keeping: Keeping, error: DivergedError, planned: int
) -> DivergedError:
    """Save that network so that it can be used, and say so beside the reason."""
    reason, done = str(error).rstrip("."), len(session.state.steps)
    if keeping.spec is None or keeping.restore is None:
        return error
    folder = session.folder / LAST_GOOD
    if session.writes:
        save(keeping.restore(last_good(session)), folder, keeping.spec())
    session.engine.barrier()
    return DivergedError(f"{reason}; {folder} has the network after {done} of {planned} steps.")
