"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from thinet.errors import ThinetError


def write_bytes_atomic(path: str | Path, data: bytes) -> Path:
    """Write ``data`` to ``path`` by way of a temporary file beside it and a rename.

    Raises:
        ThinetError: If the folder cannot be written or the disk is full.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise ThinetError(
            f"cannot write {path} ({error.strerror}): free some space or choose another folder "
            "with paths.outputs=<dir>."
        ) from error
    return path


def write_text_atomic(path: str | Path, text: str) -> Path:
    """Write ``text`` as UTF-8; see :func:`write_bytes_atomic`."""
    return write_bytes_atomic(path, text.encode())


def write_json_atomic(path: str | Path, content: Any) -> Path:
    """Write ``content`` as indented JSON; see :func:`write_bytes_atomic`."""
    return write_text_atomic(path, json.dumps(content, indent=1) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        ThinetError: If it is missing or not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ThinetError(f"{path} does not exist: give the folder of a finished run.") from error
    except (OSError, ValueError) as error:
        raise ThinetError(
            f"{path} cannot be read as JSON ({error}): restore or delete it."
        ) from error
