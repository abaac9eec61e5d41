"""The details of ``method=sensitivity``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figures:
    """Of a network on validation images; the divergence is that of its outputs from the full's."""

    top1: float
    top5: float
    divergence: float


@dataclass(frozen=True)
class Cell:
    """The figures with one layer, or group of layers, cut.

    Attributes:
        layer: Its name.
        ratio: Asked for.
        kept: Units that stay.
        units: Units in all.
        top1: As a fraction.
        top5: As a fraction.
        divergence: See :class:`Figures`.
    """

    layer: str
    ratio: float
    kept: int
    units: int
    top1: float
    top5: float
    divergence: float


@dataclass(frozen=True)
class Tried:
    """The figures with all layers cut at once; ``flops`` and ``params`` are fractions left."""

    top1: float
    top5: float
    divergence: float
    flops: float
    params: float


@dataclass(frozen=True)
class Trial:
    """One ratio for all layers, and the suggestion, within the same budget."""

    uniform: Tried
    suggestion: Tried


@dataclass(frozen=True)
class SensitivityDetails:
    """What only this method knows.

    Attributes:
        folder: Of the run.
        ratios: From the mildest cut to the hardest.
        images: Validation images behind each accuracy.
        recalibrated: Whether BatchNorm was re-estimated after each cut.
        full: The figures of the full network.
        cells: Layers in order of execution, ratios falling.
        budget: That the suggestion meets, such as ``flops:0.5``.
        suggestion: The fraction to keep of each layer.
        way: How it was found.
        trial: How it does.
    """

    folder: str
    ratios: tuple[float, ...]
    images: int
    recalibrated: bool
    full: Figures
    cells: tuple[Cell, ...]
    budget: str
    suggestion: dict[str, float]
    way: str
    trial: Trial


def rows_of(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """The cells of each layer, in order of execution, ratios falling."""
    rows: dict[str, list[Cell]] = {}
    for cell in cells:
        rows.setdefault(cell.layer, []).append(cell)
    return rows
