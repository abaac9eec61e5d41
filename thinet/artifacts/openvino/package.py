"""The package of OpenVINO, imported when it is first needed."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from thinet.base.errors import ThinetError, first_line

_REPORTING = "openvino_telemetry"


def has_openvino() -> bool:
    """Whether the package is installed."""
    return importlib.util.find_spec("openvino") is not None


def openvino() -> Any:
    """The package, which tells its vendor that it was imported unless it cannot.

    Raises:
        ThinetError: If it is not installed, or broken.
    """
    if "openvino" in sys.modules:
        return sys.modules["openvino"]
    if not has_openvino():
        raise ThinetError("openvino is not installed: type pip install 'thinet[openvino]'.")
    try:
        with telling_nobody():
            import openvino as found
    except Exception as error:  # a library that it needs is missing, or is of another version
        raise ThinetError(
            f"openvino is installed, but cannot be imported ({first_line(error)}): type "
            "pip install --force-reinstall 'thinet[openvino]'."
        ) from error
    return found


@cache
def core() -> Any:
    """The one runtime of this process.

    With the last one the plugin of the CPU is unloaded, and what it has registered to be called at
    a fork is not: the next process that is started crashes this one.
    """
    return openvino().Core()


@contextmanager
def telling_nobody() -> Iterator[None]:
    """Within, what is imported finds no package with which it could report to its vendor."""
    before = sys.modules.get(_REPORTING)
    sys.modules[_REPORTING] = None  # type: ignore[assignment]  # importing it fails, as if missing
    try:
        yield
    finally:
        del sys.modules[_REPORTING]
        if before is not None:
            sys.modules[_REPORTING] = before
