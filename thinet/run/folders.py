"""Whose a folder is: a run writes in a folder that is new, empty or its own, and nowhere else.

The name of the folder and ``paths.outputs`` may come from a stranger's configuration, and the
folder itself may be a stranger's: so it is looked at before anything is written.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from thinet.base.errors import BusyError, ThinetError
from thinet.base.files import write_bytes_atomic
from thinet.base.folders import check_links, new_folders, refuse_leaving, remove_empty
from thinet.run.lock import HOLDER, LOCK
from thinet.run.state import STATE, RunState

RECORDS = ".hydra"
_NO_WORK = {RECORDS, "run.log", STATE, LOCK, HOLDER}
"""What a run leaves that ended before it did anything."""
_BEGINNING = re.compile(r"\.hydra|run\.log|\.lock|\.running\.json|failure\.json|\..+\.partial")
"""What may lie in the folder of a run that was killed before it wrote its state."""
_ADDED_TO = ("run.log", "metrics.csv")
"""What is written in place; nearly all else is replaced whole, by a rename."""


def check_run_folder(folder: Path, fingerprint: str) -> None:
    """Refuse a folder that is not this run's; nothing is written.

    Args:
        folder: Of the run, there or not.
        fingerprint: Of the configuration.

    Raises:
        ThinetError: If it holds another run or somebody's files, or if a link in it leads out.
    """
    refuse_leaving(folder, folder.parent)
    if not folder.is_dir():
        return  # making it says what is wrong
    names = set(os.listdir(folder))
    if not names:
        return
    # By thinet, whatever has become of its state. What a link is called says nothing.
    named = Path(os.path.realpath(folder)).name.endswith(fingerprint)
    if STATE in names and not named:
        _check_state(folder, fingerprint)
    elif not named and not all(map(_BEGINNING.fullmatch, names)):
        raise ThinetError(
            f"{folder} is there already and holds no run: choose another name with name=<name> "
            "or another place with paths.outputs=<folder>."
        )
    check_links(folder)


def _check_state(folder: Path, fingerprint: str) -> None:
    try:
        RunState.load(folder, fingerprint)
    except ThinetError as error:
        if "another configuration" in str(error):
            raise
        raise ThinetError(
            f"{folder / STATE} is not the state of a run, so that nothing in this folder is "
            "touched: choose another name with name=<name>, or remove the folder yourself."
        ) from error


def unshare(folder: Path) -> None:
    """Give a run files of its own where those it adds to have other names too (``cp -al``)."""
    for name in _ADDED_TO:
        path = folder / name
        if path.is_file() and path.stat().st_nlink > 1:
            write_bytes_atomic(path, path.read_bytes())


@contextlib.contextmanager
def taken(folder: Path, fingerprint: str) -> Iterator[None]:
    """Make the folder of a run; what was made is removed if the run ends before it did anything.

    Args:
        folder: Of the run.
        fingerprint: Of the configuration.

    Raises:
        ThinetError: See :func:`check_run_folder`.
    """
    check_run_folder(folder, fingerprint)
    made = new_folders(folder)
    empty = not folder.is_dir() or not os.listdir(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BusyError:
        raise  # another process of the same run made it, or lives in it
    except BaseException:
        if empty:
            _remove_beginning(folder)
        remove_empty(made)
        raise


def _remove_beginning(folder: Path) -> None:
    if not folder.is_dir():
        return
    with contextlib.suppress(Timeout, OSError), FileLock(folder / LOCK, timeout=0):
        _remove_what_did_no_work(folder)  # and not what a run that waited for this one has begun


def _remove_what_did_no_work(folder: Path) -> None:
    if not set(os.listdir(folder)) <= _NO_WORK:
        return
    shutil.rmtree(folder / RECORDS, ignore_errors=True)
    for name in _NO_WORK - {RECORDS}:
        with contextlib.suppress(OSError):
            (folder / name).unlink(missing_ok=True)
