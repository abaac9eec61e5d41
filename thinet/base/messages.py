"""Lines for the person who watches, on the console and in ``run.log``; from the first rank only."""

from __future__ import annotations

import logging
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from thinet.base.errors import Unread

_log = logging.getLogger("thinet")


def is_first_process() -> bool:
    """Whether this process is the one that speaks (before torch knows about ranks)."""
    rank = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))
    places = (rank, os.environ.get("LOCAL_RANK", "0"), os.environ.get("NODE_RANK", "0"))
    return all(place == "0" for place in places)


def say(text: str) -> None:
    """One line."""
    if is_first_process():
        _log.info(text)


def open_streams() -> None:
    """Give a program that was started without them (``>&-``) something to read from and write to.

    Else the next files that it opens would get the numbers that libraries print to.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w", closefd=False))  # noqa: SIM115


def is_unread(stream: TextIO) -> bool:
    """Whether a stream leads to a program that has ended."""
    try:
        looked = select.poll()
        looked.register(stream.fileno(), 0)
        return any(found & select.POLLERR for _, found in looked.poll(0))
    except (OSError, ValueError):  # no file of the system
        return False


def silence(stream: TextIO) -> None:
    """Let what is written there from now on, and what is still to be written, go nowhere."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


class _Console(logging.StreamHandler):  # type: ignore[type-arg]
    """What a person sees."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """End the run if nothing reads the output any more (``| head``).

        Raises:
            Unread: If so.
        """
        if isinstance(sys.exc_info()[1], BrokenPipeError):
            raise Unread from None
        super().handleError(record)


class _RunLog(logging.FileHandler):
    """``run.log``, which is a convenience: a full disk is found out by what has to be written."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Say nothing; the console has the line."""

    def close(self) -> None:
        """Close the file, whatever was left to write."""
        with suppress(OSError):
            super().close()


@contextmanager
def logging_to(folder: Path | None) -> Iterator[None]:
    """Show lines on the console and append them to ``run.log`` in ``folder``."""
    handlers: list[logging.Handler] = [_Console(sys.stdout)]
    if folder is not None and is_first_process():
        file = _RunLog(folder / "run.log")
        file.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        handlers.append(file)
    _log.setLevel(logging.INFO)
    _log.propagate = False
    for handler in handlers:
        _log.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            _log.removeHandler(handler)
            with suppress(BrokenPipeError):
                handler.close() if isinstance(handler, logging.FileHandler) else handler.flush()
