"""What pruning has to show."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Accuracy:
    """Top-1 and top-5 accuracy as fractions."""

    top1: float
    top5: float


@dataclass(frozen=True)
class BeforeFinetuning:
    """Test accuracy right after the last cut."""

    plain: Accuracy
    recalibrated: Accuracy | None


@dataclass(frozen=True)
class LayerRow:
    """One pruned layer."""

    stage: int
    layer: str
    filters_before: int
    filters_after: int
    ratio: float
    flops_before: int
    flops_after: int
    params_before: int
    params_after: int
    kept: tuple[int, ...]
    rows: int | None
    error: float | None
    error_corrected: float | None


@dataclass(frozen=True)
class PruningDetails:
    """What pruning has to say beside the figures that all methods have."""

    layers: tuple[LayerRow, ...] = ()
    before_finetuning: BeforeFinetuning | None = None
