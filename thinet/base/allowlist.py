"""What a file from a stranger may name: classes by an allow-list, files by their kind and size.

A dotted name is judged by its text first, since importing a module already runs it.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from thinet.base.errors import ThinetError, first_line

VARIABLE = "THINET_TRUST"
"""Environment variable with packages of the user's own, with commas: a file cannot set it.

The word ``shell`` in it allows a configuration to hold shell lines for a cluster's jobs.
"""
SHELL = "shell"
PLACES = {
    "*.build": ("thinet",),
    "dataset.data": ("thinet",),
    "*.optimizer": ("torch.optim", "timm.optim", "thinet"),
    "synthesis.generator.optimizer": ("torch.optim", "timm.optim", "thinet"),
    "synthesis.student.optimizer": ("torch.optim", "timm.optim", "thinet"),
    "model.build": ("thinet.models", "torchvision.models"),
    "teacher.build": ("thinet.models", "torchvision.models"),
}
"""The only keys below which ``_target_`` may stand, and where its name may lie."""
TRANSFORMS = ("thinet.quantization",)
"""Where functions lie that a saved network may name as what was done to its modules."""
_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)


def own_packages() -> tuple[str, ...]:
    """The user's own packages, from the environment."""
    words = (word.strip() for word in os.environ.get(VARIABLE, "").split(","))
    return tuple(word for word in words if word)


def packages_of(place: str) -> tuple[str, ...]:
    """Where the name of a class may lie that is made at a place; empty where none is made."""
    general = f"*.{place.rpartition('.')[2]}" if place.count(".") == 1 else ""
    return PLACES.get(place, PLACES.get(general, ()))


def is_below(name: str, packages: Sequence[str]) -> bool:
    """Whether a dotted name is one of ``packages`` or lies in one."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def check_target(target: Any, packages: Sequence[str], place: str) -> str:
    """Judge a dotted name by its text; nothing is imported.

    Args:
        target: What stands in a file.
        packages: Where it may lie, beside the user's own packages.
        place: The key that holds it, for the sentence.

    Returns:
        ``target``.

    Raises:
        ThinetError: If it is not a plain name below one of the packages.
    """
    plain = isinstance(target, str) and len(target) < 200 and _NAME.fullmatch(target)
    private = plain and any(word.startswith("_") for word in target.split("."))
    if plain and is_below(target, own_packages()):
        return str(target)
    if not plain or private or not is_below(target, packages):
        shown = repr(target) if plain else repr(str(target)[:60])
        package = target.partition(".")[0] if plain else "mypackage"
        raise ThinetError(
            f"{place}={shown} is refused, because only names below {' and '.join(packages)} are "
            f"made from a configuration: correct it, or if it is your own code start with "
            f"{VARIABLE}={package} python run.py."
        )
    return str(target)


def find_target(target: Any, packages: Sequence[str], place: str) -> Any:
    """The class or function of a dotted name, which lies where the name says.

    ``thinet.app.config.hashlib`` and the like are out of reach: what a module imports itself is not
    of its package.

    Args:
        target: See :func:`check_target`.
        packages: See :func:`check_target`.
        place: See :func:`check_target`.

    Raises:
        ThinetError: If it is refused or does not exist.
    """
    check_target(target, packages, place)
    module_name, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except Exception as error:  # an import can raise anything
        raise ThinetError(
            f"{place}={target} does not exist ({first_line(error)}): correct the name; "
            "python run.py --cfg job shows it."
        ) from error
    home = str(getattr(found, "__module__", ""))
    own = (*packages, *own_packages())
    if not (inspect.isclass(found) or inspect.isfunction(found)) or not is_below(home, own):
        raise ThinetError(
            f"{place}={target} is refused, because it is no class or function of "
            f"{' or '.join(packages)}: correct it, or if it is your own code start with "
            f"{VARIABLE}=mypackage python run.py."
        )
    return found


def find_class(target: Any, kind: type, packages: Sequence[str], place: str) -> type:
    """The class of a dotted name, if it is of the kind that is expected at its place.

    Args:
        target: See :func:`check_target`.
        kind: Base class.
        packages: See :func:`check_target`.
        place: See :func:`check_target`.

    Raises:
        ThinetError: If it is refused, does not exist or is something else.
    """
    found = find_target(target, packages, place)
    if not (inspect.isclass(found) and issubclass(found, kind)):
        raise ThinetError(
            f"{place}={target} is refused, because it is not a {kind.__name__}: "
            "name a class of that kind."
        )
    return found


def read_regular(path: Path, limit: int, advice: str) -> bytes:
    """The content of a regular file: no pipe or device, which would hang or never end.

    Args:
        path: The file, or a link to one.
        limit: The most bytes it may have.
        advice: What to do instead, the end of the sentence.

    Raises:
        OSError: If it cannot be opened.
        ThinetError: If it is something else, or larger.
    """
    # Opening a pipe waits for a writer, unless told not to; a check before would be too early.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise ThinetError(f"{path} is not a regular file: {advice}.")
        if found.st_size > limit:
            raise ThinetError(
                f"{path} has {found.st_size} bytes, more than the {limit} that such a file can "
                f"have: {advice}."
            )
        return file.read(found.st_size)


def is_single_name(text: str) -> bool:
    """Whether a text is the name of one file or folder that lies where it is put."""
    plain = bool(text) and text.isprintable() and len(os.fsencode(text)) <= 255
    return plain and "/" not in text and "\\" not in text and text not in (".", "..")
