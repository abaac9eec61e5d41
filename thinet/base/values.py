"""What single settings may be: the same for the command line and the Python API.

Imported before torch, so that a wrong value is reported at once.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence, Set
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from thinet.base.errors import SettingError, ThinetError

_LONGEST = 100


def shown(value: Any) -> str:
    """A value in a message: short, and on one line."""
    text = " ".join(str(value).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


def is_whole(value: Any) -> bool:
    """Whether it is a whole number; true and false are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether it is a finite number; true and false are none."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def below(node: Mapping[str, object], key: str) -> Mapping[str, object]:
    """The mapping at a key of a configuration; an empty one if something else stands there."""
    found = node.get(key)
    return found if isinstance(found, Mapping) else {}


def whole(name: str, value: Any, example: str, least: int = 1) -> int:
    """``value`` if it is a whole number of at least ``least``.

    Args:
        name: Of the setting, as it is typed.
        value: What was given.
        example: A value that makes sense.
        least: The smallest that does.

    Raises:
        ThinetError: If it is not.
    """
    if not is_whole(value) or value < least:
        raise ThinetError(
            f"{name}={shown(value)} is not a whole number of at least {least}: "
            f"type {name}={example}."
        )
    return int(value)


def check_whole(settings: Any, name: str, least: int, example: str) -> None:
    """Raise :class:`SettingError` unless a field is a whole number of at least ``least``."""
    value = getattr(settings, name)
    if not is_whole(value) or value < least:
        raise SettingError(
            f"{name}={shown(value)} is not a whole number of at least {least}", name, example
        )


def number(name: str, value: Any, example: str, least: float = 0.0) -> float:
    """``value`` if it is a finite number of at least ``least``; see :func:`whole`."""
    if not is_number(value) or value < least:
        raise ThinetError(
            f"{name}={shown(value)} is not a number of at least {least:g}: type {name}={example}."
        )
    return float(value)


def flag(name: str, value: Any) -> bool:
    """``value`` if it is true or false; see :func:`whole`."""
    if not isinstance(value, bool):
        raise ThinetError(f"{name}={shown(value)} is neither true nor false: type {name}=true.")
    return value


def layer_names(layers: Any) -> None:
    """Raise :class:`ThinetError` unless ``layers`` is a name, a glob or some of those."""
    several = isinstance(layers, (Sequence, Set)) and not isinstance(layers, (str, bytes))
    names = list(layers) if several else [layers]
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ThinetError(
            f"layers={shown(layers)} is not a name, a glob or a list of those: type for example "
            "layers=[features.0,features.5]."
        )


def image_shape(shape: Any) -> tuple[int, ...]:
    """The shape of one image, as integers.

    Raises:
        ThinetError: If it is none.
    """
    several = isinstance(shape, Sequence) and not isinstance(shape, (str, bytes))
    if not several or not shape or not all(is_whole(size) and size >= 1 for size in shape):
        raise ThinetError(
            f"input_shape={shown(shape)} is not the shape (C, H, W) of one image: pass for example "
            "(3, 224, 224)."
        )
    return tuple(int(size) for size in shape)


def folder_path(folder: Any) -> Path:
    """The folder that a path names.

    Raises:
        ThinetError: If it is none, or the path of a file.
    """
    good = isinstance(folder, (str, os.PathLike)) and isinstance(os.fspath(folder), str)
    if not good or not str(folder) or "\0" in str(folder):
        raise ThinetError(
            f"folder={shown(folder) or repr(folder)} is not the path of a folder: pass for example "
            "'slim/'."
        )
    path = Path(folder)
    if path.is_file():
        raise ThinetError(f"{path} is a file: give the folder that it lies in, or another one.")
    return path
