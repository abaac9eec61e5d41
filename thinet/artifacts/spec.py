"""``spec.json`` beside saved weights: how to build the network, read as a stranger's file."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from thinet.artifacts.names import SPEC
from thinet.base.allowlist import read_regular
from thinet.base.errors import ThinetError, first_line

LARGEST = 2**24
"""Bytes of a ``spec.json``; a ResNet-152 with 21,843 named classes has less than one million."""
_COUNT = 2**20  # more filters, classes or pixels than any network has


@dataclass(frozen=True)
class Spec:
    """What is needed, beside the weights, to build and to use a saved network.

    Attributes:
        builder: ``{"target": ..., "arguments": {...}}`` of the network at full width, or None for
            a network that only its owner can build.
        keep: Kept filters of each pruned layer in *original* coordinates.
        widths: Filters of each convolution and linear layer as saved, for the reader.
        input_shape: ``(C, H, W)``.
        mean: Normalisation the network expects, or None if unknown.
        std: See ``mean``.
        classes: Names of the classes in the order of the outputs.
        metrics: Figures measured with these weights.
    """

    builder: dict[str, Any] | None = None
    keep: dict[str, list[int]] = field(default_factory=dict)
    widths: dict[str, int] = field(default_factory=dict)
    input_shape: tuple[int, ...] = ()
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    classes: tuple[str, ...] = ()
    metrics: dict[str, Any] = field(default_factory=dict)
    format: int = 1


def read_spec(folder: str | Path) -> Spec:
    """The spec of a saved network.

    Raises:
        ThinetError: If there is none, it was written by a newer version, or its values are not
            of the kind that a spec has.
    """
    path = Path(folder) / SPEC
    if not path.exists():
        raise ThinetError(
            f"{folder} holds no {SPEC}: give the folder of a saved network, for example "
            "outputs/<name>/model."
        )
    content = _parse(path)
    found = content.get("format") if isinstance(content, dict) else None
    if isinstance(found, int) and found > 1:
        raise ThinetError(f"{path} has format {found}, newer than this thinet: upgrade it.")
    try:
        spec = Spec(**content)
        _check_fields(spec)
    except TypeError as error:
        reason = first_line(error)[:200]
        raise ThinetError(f"{path} is not a thinet spec ({reason}): restore the file.") from error
    return spec


def check_spec(spec: Spec) -> None:
    """Refuse what :func:`read_spec` would refuse, before it is written.

    Raises:
        ThinetError: Naming the field.
    """
    try:
        if not isinstance(spec, Spec):
            raise TypeError(f"{type(spec).__name__} is no thinet.artifacts.store.Spec")
        _check_fields(spec)
        json.dumps(asdict(spec))
    except (TypeError, ValueError, RecursionError) as error:
        reason = first_line(error)[:200]
        raise ThinetError(f"spec cannot be saved ({reason}): correct that value.") from error


def _check_fields(spec: Spec) -> None:
    for name, good in _FIELDS.items():
        if not good(getattr(spec, name)):
            raise TypeError(f"{name} has a value that it cannot have")


def _parse(path: Path) -> Any:
    restore = "restore or delete it"
    try:
        return json.loads(read_regular(path, LARGEST, restore).decode())
    except RecursionError as error:
        raise ThinetError(f"{path} is nested too deeply: {restore}.") from error
    except (OSError, ValueError) as error:
        reason = first_line(error)[:200]
        raise ThinetError(f"{path} cannot be read as JSON ({reason}): {restore}.") from error


def _is_count(value: Any, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= _COUNT


def _is_builder(value: Any) -> bool:
    return value is None or (
        isinstance(value, dict)
        and value.keys() == {"target", "arguments"}
        and isinstance(value["target"], str)
        and isinstance(value["arguments"], dict)
    )


def _is_keep(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(kept, list)
        and all(_is_count(one, least=0) for one in kept)
        and len(set(kept)) == len(kept)
        for kept in value.values()
    )


def _is_widths(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_count, value.values()))


def _is_shape(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) <= 4 and all(map(_is_count, value))


def _are_numbers(value: Any) -> bool:
    return value is None or (
        isinstance(value, (list, tuple))
        and len(value) <= 64
        and all(type(one) in (int, float) and math.isfinite(one) for one in value)
    )


def _are_names(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value)


_FIELDS: dict[str, Callable[[Any], bool]] = {
    "builder": _is_builder,
    "keep": _is_keep,
    "widths": _is_widths,
    "input_shape": _is_shape,
    "mean": _are_numbers,
    "std": _are_numbers,
    "classes": _are_names,
    "metrics": lambda value: isinstance(value, dict),
    "format": _is_count,
}
