"""The images that choices are made on, decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class CalibrationImages:
    """Training images without augmentation, the same in the same order on every process.

    Attributes:
        images: Each ``(C, H, W)``.
        labels: The class of each, ``(images,)``.
    """

    images: Sequence[Tensor]
    labels: Tensor
