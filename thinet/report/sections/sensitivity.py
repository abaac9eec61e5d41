"""What the sensitivity of single layers has to show."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figures:
    """How a network does on some validation images."""

    top1: float
    top5: float
    divergence: float


@dataclass(frozen=True)
class Cell:
    """One layer at one ratio."""

    layer: str
    ratio: float
    kept: int
    units: int
    top1: float
    top5: float
    divergence: float


@dataclass(frozen=True)
class Tried:
    """A network with all layers cut."""

    top1: float
    top5: float
    divergence: float
    flops: float
    params: float


@dataclass(frozen=True)
class Trial:
    """The suggestion beside one ratio for all layers."""

    uniform: Tried
    suggestion: Tried


@dataclass(frozen=True)
class SensitivityDetails:
    """The table, and what it suggests."""

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
