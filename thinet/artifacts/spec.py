"""``spec.json`` beside saved weights: how to build the network, read as a stranger's file."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from thinet.artifacts.names import SPEC
from thinet.base.allowlist import read_regular
from thinet.base.errors import ThinetError, first_line
from thinet.base.records import JSON, from_json, to_json

FORMAT = 3
LARGEST = 2**24
"""Bytes of a ``spec.json``; a ResNet-152 with 21,843 named classes has less than one million."""
_COUNT = 2**20  # more filters, classes or pixels than any network has
_LARGE = 4096  # pixels of an image that a network is traced with, as for builders
_FEW = 64  # channels of an image, or transforms
_DIGEST = re.compile("([0-9a-f]{64})?")


@dataclass(frozen=True)
class Builder:
    """What makes a network at full width; see :func:`thinet.models.build`.

    Attributes:
        target: Dotted name of a function or class.
        arguments: Its keyword arguments.
    """

    target: str
    arguments: dict[str, JSON]


@dataclass(frozen=True)
class Transform:
    """A change of modules, such as binarisation; see :mod:`thinet.artifacts.transforms`.

    Attributes:
        target: Dotted name of a function, called as ``f(network, **arguments) -> network``.
        arguments: Its keyword arguments.
    """

    target: str
    arguments: dict[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True)
class Spec:
    """What is needed, beside the weights, to build and to use a saved network.

    It is built, narrowed to ``keep``, transformed, compared with the weights and filled with them.

    Attributes:
        builder: Of the network at full width, or None for a network that only its owner can build.
        keep: Kept filters of each pruned layer in *original* coordinates.
        transforms: What was done to its modules after that, in order.
        widths: Filters of each convolution and linear layer as saved; written by ``save``.
        kinds: Class of each module with tensors of its own; written by ``save``.
        input_shape: ``(C, H, W)``.
        mean: Normalisation the network expects, or None if unknown.
        std: See ``mean``.
        classes: Names of the classes in the order of the outputs.
        metrics: Figures measured with these weights.
        sha256: Of the file of weights, in hexadecimal; written by ``save``. Empty: not compared.
        lineage: Names of the runs that it descends from, the first one first, for people.
        format: Of this file.
    """

    builder: Builder | None = None
    keep: dict[str, list[int]] = field(default_factory=dict)
    transforms: tuple[Transform, ...] = ()
    widths: dict[str, int] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    input_shape: tuple[int, ...] = ()
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    classes: tuple[str, ...] = ()
    metrics: dict[str, JSON] = field(default_factory=dict)
    sha256: str = ""
    lineage: tuple[str, ...] = ()
    format: int = FORMAT


def read_spec(folder: str | Path) -> Spec:
    """The spec of a saved network.

    Raises:
        ThinetError: If there is none, it has another version's format, or its values are not of
            the kind that a spec has.
    """
    path = Path(folder) / SPEC
    if not path.exists():
        raise ThinetError(
            f"{folder} holds no {SPEC}: give the folder of a saved network, for example "
            "outputs/<name>/model."
        )
    content = _parse(path)
    found = content.get("format") if isinstance(content, dict) else None
    if isinstance(found, int) and found > FORMAT:
        raise ThinetError(f"{path} has format {found}, newer than this thinet: upgrade it.")
    if isinstance(found, int) and 0 < found < FORMAT:
        raise ThinetError(
            f"{path} has format {found} and this version reads format {FORMAT}: save the network "
            "again, or install the version of thinet that wrote it."
        )
    try:
        return _checked(content)
    except ValueError as error:
        reason = first_line(error)[:200]
        raise ThinetError(f"{path} is not a thinet spec ({reason}): restore the file.") from error


def check_spec(spec: Spec) -> Spec:
    """Refuse what :func:`read_spec` would refuse, before it is written.

    Returns:
        What would be read.

    Raises:
        ThinetError: Naming the field.
    """
    try:
        if not isinstance(spec, Spec):
            raise TypeError(f"{type(spec).__name__} is no thinet.artifacts.spec.Spec")
        return _checked(to_json(spec))
    except (TypeError, ValueError, RecursionError) as error:
        reason = first_line(error)[:200]
        raise ThinetError(f"spec cannot be saved ({reason}): correct that value.") from error


def _checked(content: object) -> Spec:
    """A spec of the right types whose numbers are within bounds.

    Raises:
        ValueError: Naming the field.
    """
    spec = from_json(Spec, content)
    kept = spec.keep.values()
    good = {
        "keep": all(_are_counts(one, 0) and len(set(one)) == len(one) for one in kept),
        "widths": _are_counts(spec.widths.values()),
        "input_shape": len(spec.input_shape) <= 4 and _are_counts(spec.input_shape),
        "mean": _are_few_numbers(spec.mean),
        "std": _are_few_numbers(spec.std),
        "sha256": _DIGEST.fullmatch(spec.sha256) is not None,
        "transforms": len(spec.transforms) <= _FEW,
        "format": spec.format == FORMAT,
    }
    for name, fine in good.items():
        if not fine:
            raise ValueError(f"{name} has a value that it cannot have")
    if spec.transforms and spec.keep and not spec.input_shape:
        raise ValueError("input_shape is missing, and transforms follow on kept filters")
    if spec.transforms and any(size > _LARGE for size in spec.input_shape):
        raise ValueError(f"input_shape is beyond {_LARGE} pixels")
    return spec


def _are_counts(values: Iterable[int], least: int = 1) -> bool:
    return all(least <= value <= _COUNT for value in values)


def _are_few_numbers(values: tuple[float, ...] | None) -> bool:
    return values is None or (len(values) <= _FEW and all(map(math.isfinite, values)))


def _parse(path: Path) -> object:
    restore = "restore or delete it"
    try:
        content: object = json.loads(read_regular(path, LARGEST, restore).decode())
    except RecursionError as error:
        raise ThinetError(f"{path} is nested too deeply: {restore}.") from error
    except (OSError, ValueError) as error:
        reason = first_line(error)[:200]
        raise ThinetError(f"{path} cannot be read as JSON ({reason}): {restore}.") from error
    return content
