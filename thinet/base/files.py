"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

from thinet.base.allowlist import read_regular
from thinet.base.errors import ThinetError


def write_bytes_atomic(path: str | Path, data: bytes) -> Path:
    """Write ``data`` to ``path`` by way of a temporary file beside it and a rename.

    Raises:
        ThinetError: If the folder cannot be written or the disk is full.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "xb") as file:  # a file or a link that is there is somebody's
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        if not isinstance(error, FileExistsError):
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


def check_space(folder: Path, needed: int) -> None:
    """Refuse a folder on a disk with too little space.

    Args:
        folder: Exists, or is going to be made.
        needed: Bytes.

    Raises:
        ThinetError: Naming both numbers.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise ThinetError(
            f"{folder} lies on a disk with {free / 1e6:.0f} MB free, and this run needs about "
            f"{needed / 1e6:.0f} MB: free some space or choose another folder with "
            "paths.outputs=<dir>."
        )


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        ThinetError: If it is missing or not JSON, or of more than 256 MiB.
    """
    try:
        return json.loads(read_regular(Path(path), 2**28, "restore or delete it").decode())
    except FileNotFoundError as error:
        raise ThinetError(f"{path} does not exist: give the folder of a finished run.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ThinetError(
            f"{path} cannot be read as JSON ({error}): restore or delete it."
        ) from error
