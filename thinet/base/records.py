"""Dataclasses as JSON and back, checked against their types."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, cast

from typing_extensions import TypeAliasType  # of torch, which needs it

from thinet.base.errors import first_line

if TYPE_CHECKING:
    from pydantic import TypeAdapter

JSON = TypeAliasType("JSON", "bool | int | float | str | list[JSON] | dict[str, JSON] | None")
"""What a JSON file holds."""

Config = Mapping[str, Any]
"""A configuration as plain containers. Methods never see one: see :mod:`thinet.run.settings`."""

T = TypeVar("T")


def to_json(record: Any) -> dict[str, JSON]:
    """The fields of a dataclass, nested ones too, as plain containers."""
    found: dict[str, JSON] = _plain(asdict(record))
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value


def from_json(kind: type[T], content: object) -> T:
    """A dataclass from what :func:`to_json` made of one.

    Args:
        kind: The dataclass; its fields may be scalars, containers and dataclasses.
        content: As read from a file. A field that is missing has its default.

    Raises:
        ValueError: In one line, if a field is missing, unknown or of another type.
    """
    try:
        # As JSON, so that a list is a tuple where one is wanted, but "1" and true are no numbers.
        (found,) = _adapter(cast(Any, kind)).validate_json(json.dumps([content]), strict=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(_reason(error)) from error
    return cast(T, found)


@cache
def _adapter(kind: Any) -> TypeAdapter[tuple[Any]]:
    from pydantic import ConfigDict, TypeAdapter  # not before a file is read

    # What surrounds a plain dataclass says how it is read: fields that it lacks are refused.
    return TypeAdapter(tuple[kind], config=ConfigDict(extra="forbid"))


def _reason(error: Any) -> str:
    """The first of pydantic's complaints as ``field: what is wrong``."""
    complaints = error.errors() if hasattr(error, "errors") else []
    if not complaints:
        return first_line(error)
    first = complaints[0]
    place = ".".join(str(part) for part in first["loc"][1:])
    return f"{place}: {first['msg']}" if place else str(first["msg"])
