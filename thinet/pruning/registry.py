"""Finding an implementation by the name of its file, for those who do not use Hydra."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import TypeVar

from thinet.base.errors import ThinetError
from thinet.base.values import shown

T = TypeVar("T")


def names(package: str, base: type) -> list[str]:
    """The files below ``thinet/pruning/<package>`` that define an implementation of ``base``."""
    root = importlib.import_module(f"thinet.pruning.{package}")
    return [
        module.name
        for module in pkgutil.iter_modules(root.__path__)
        if _defined(f"{root.__name__}.{module.name}", base) is not None
    ]


def find(package: str, name: str, base: type[T]) -> T:
    """The implementation in ``thinet/pruning/<package>/<name>.py``, with its default settings.

    Raises:
        ThinetError: If there is none.
    """
    try:
        kind = _defined(f"thinet.pruning.{package}.{name}", base)
    except ModuleNotFoundError:
        kind = None
    if kind is None:
        raise ThinetError(
            f"there is no {base.__name__.lower()} {name!r}: choose among "
            f"{', '.join(names(package, base))}."
        )
    return kind()


def choose(package: str, given: object, base: type[T]) -> T:
    """What was given, or what :func:`find` finds by that name.

    Raises:
        ThinetError: If it is neither a name nor an implementation.
    """
    if isinstance(given, str):
        return find(package, given, base)
    if not isinstance(given, base):
        kind = base.__name__
        call = f", made by calling it, {given.__name__}()" if inspect.isclass(given) else ""
        raise ThinetError(
            f"{kind.lower()}={shown(given)} is neither a name nor a thinet.pruning.{package}.{kind}"
            f"{call}: choose among {', '.join(names(package, base))}."
        )
    return given


def _defined(module: str, base: type[T]) -> type[T] | None:
    members = vars(importlib.import_module(module)).values()
    for member in members:
        if (
            inspect.isclass(member)
            and issubclass(member, base)
            and not inspect.isabstract(member)
            and member.__module__ == module
        ):
            return member
    return None
