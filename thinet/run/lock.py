"""Locks between processes: one run in a folder, one training of a shared baseline."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from thinet.base.errors import BusyError, ThinetError
from thinet.base.files import read_json, write_json_atomic

LOCK = ".lock"
HOLDER = ".running.json"
PATIENCE = 10.0
"""Seconds: loader processes of a killed run may hold its lock for half as long."""


@contextmanager
def run_lock(folder: Path, wait: bool = False) -> Iterator[None]:
    """Hold a run folder; the system lets go of it when the process ends, however it ends.

    Args:
        folder: Of the run.
        wait: Whether to wait for another process to end: workers of a sweep may outlive it, and the
            sweep that is repeated meanwhile meets them.

    Raises:
        BusyError: If another process holds it.
    """
    lock = FileLock(folder / LOCK)
    try:
        _wait(lock, folder, PATIENCE)
    except Timeout as error:
        if wait:
            print(f"{folder} is in use by {_holder(folder)}: waiting for it to end", flush=True)
            _wait(lock, folder, -1)
        else:
            raise BusyError(
                f"{folder} is in use by {_holder(folder)}: wait for that run to end, or stop it; "
                "the same command then goes on."
            ) from error
    try:
        write_json_atomic(
            folder / HOLDER,
            {
                "process": os.getpid(),
                "host": socket.gethostname(),
                "since": datetime.now().astimezone().isoformat(timespec="seconds"),
            },
        )
        yield
    finally:
        (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


def _wait(lock: FileLock, folder: Path, seconds: float) -> None:
    try:
        lock.acquire(timeout=seconds)
    except FileNotFoundError:  # whoever held it did no work, and has removed the folder
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=seconds)


def _holder(folder: Path) -> str:
    try:
        found = read_json(folder / HOLDER)
        return f"process {found['process']} on {found['host']} since {found['since']}"
    except (ThinetError, KeyError, TypeError):
        return "another process"


@contextmanager
def one_at_a_time(
    path: Path, first: bool, agree: Callable[[bool], bool], wait: Callable[[], None]
) -> Iterator[None]:
    """Hold a lock file that several runs share; the processes of one run hold it together.

    Args:
        path: The file.
        first: Whether this process is the one of its run that holds it.
        agree: Gives every process of the run the value of the first.
        wait: Called once if another run holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    waiting = False
    while not agree(first and _take(lock)):
        if not waiting:
            wait()
        waiting = True
        time.sleep(1)
    try:
        yield
    finally:
        if first:
            lock.release()


def _take(lock: FileLock) -> bool:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True
