"""Lines for the person who watches, on the console and in ``run.log``; from the first rank only."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

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
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stdout)]
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
            handler.close() if isinstance(handler, logging.FileHandler) else handler.flush()
