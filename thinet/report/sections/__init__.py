"""What each family of methods adds to a page: a module or package each, found by listing them.

A module here, or the module ``section`` of a trusted package of the user's own, that defines a
:class:`Section` is asked about every result that has its key. Results whose details nobody knows
are shown without them.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType

from thinet.base.allowlist import own_packages
from thinet.base.errors import ThinetError
from thinet.base.files import write_text_atomic
from thinet.base.records import from_json
from thinet.report.sections.base import (
    Picture,
    Plot,
    Section,
    StepFigure,
    Width,
    Widths,
)
from thinet.run.result import Result

__all__ = [
    "Picture",
    "Plot",
    "Section",
    "StepFigure",
    "Width",
    "Widths",
    "families",
    "sections",
    "write_files",
]


def families() -> list[type[Section[object]]]:
    """The sections of all families, by the names of their modules."""
    found: list[type[Section[object]]] = []
    for module in (*_own(), *_of_users()):
        found += [
            one
            for one in vars(module).values()
            if isinstance(one, type)
            and issubclass(one, Section)
            and one is not Section
            and one.__module__ == module.__name__
        ]
    return found


def _own() -> list[ModuleType]:
    names = sorted(module.name for module in iter_modules(__path__))
    return [import_module(f"{__name__}.{name}") for name in names]


def _of_users() -> list[ModuleType]:
    """The module ``section`` of each package of the user's own that is trusted and has one."""
    names = [f"{package}.section" for package in own_packages()]
    return [import_module(name) for name in names if _is_there(name)]


def _is_there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # of the package itself
        return False


def sections(result: Result) -> list[Section[object]]:
    """What families have to say of a result.

    Raises:
        ThinetError: If the details of one are not what its dataclass says.
    """
    found = []
    for family in families():
        if family.key not in result.details:
            continue
        try:
            details = from_json(family.kind, result.details[family.key])
        except ValueError as error:
            raise ThinetError(
                f"the details of {family.key} in the result of {result.run.name} are damaged "
                f"({error}): repeat the run with resume=off."
            ) from error
        found.append(family(result, details))
    return found


def write_files(result: Result, folder: str | Path) -> list[Path]:
    """Write what each family leaves in the folder of a run, each file atomically.

    Returns:
        The files.
    """
    return [
        write_text_atomic(Path(folder) / name, text)
        for section in sections(result)
        for name, text in section.files().items()
    ]
