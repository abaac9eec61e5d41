"""Folders that are written to: links that lead out of them, and making and removing them."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from thinet.base.errors import ThinetError


def check_links(folder: Path) -> None:
    """Refuse a folder with links that lead out of it: writing would follow them.

    Args:
        folder: There or not. That it is itself a link is no fault here.

    Raises:
        ThinetError: Naming the first.
    """
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            refuse_leaving(Path(parent) / name, folder)
        if Path(parent) == folder / "wandb":
            folders.clear()  # W&B takes a new folder each time; what is in them stays as it is


def check_own(*paths: Path) -> None:
    """Refuse files and folders of thinet's own that are links, or that hold links out.

    Raises:
        ThinetError: Naming the first.
    """
    for path in paths:
        refuse_leaving(path, path.parent)
        check_links(path)


def refuse_leaving(path: Path, folder: Path) -> None:
    """Refuse a file or folder through which writing would change something outside ``folder``.

    Raises:
        ThinetError: If it is a link that leads out, a name of a file that has others too and is
            written in place, or neither file nor folder.
    """
    try:
        found = path.lstat()
    except OSError:  # gone meanwhile, or nothing is there
        return
    if stat.S_ISLNK(found.st_mode):
        inside, home = os.path.realpath(path), os.path.realpath(folder)
        # W&B has such links, to the latest of its folders.
        if inside != home and inside.startswith(home.rstrip("/") + "/"):
            return
        kind = f"a link to {inside}"
    elif stat.S_ISREG(found.st_mode):
        emptied = path.name.endswith(".lock") and found.st_size > 0
        changed = emptied or ".db" in path.suffix
        if found.st_nlink == 1 or not changed:
            return  # see thinet.run.folders.unshare: a backup by hard links keeps what it has
        kind = "one of several names of a file (a hard link)"
    elif stat.S_ISDIR(found.st_mode):
        return
    else:
        kind = "not a regular file"
    raise ThinetError(
        f"{path} is {kind}, and what is written there would change files elsewhere: type "
        f"cp -rL {folder} <new folder> and use the copy, or remove it."
    )


def new_folders(folder: Path) -> list[Path]:
    """The folders that have to be made for ``folder`` to be there, itself first."""
    return [path for path in (folder, *folder.parents) if not os.path.lexists(path)]


def remove_empty(folders: list[Path]) -> None:
    """Remove folders, as far as they are empty."""
    for path in folders:
        with contextlib.suppress(OSError):
            path.rmdir()
