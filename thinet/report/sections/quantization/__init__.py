"""What binarisation leaves: which layers have bits, what that is worth on disk and in time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from thinet.report.sections.base import Section
from thinet.report.sections.quantization.details import (
    KEY,
    LayerBits,
    QuantizationDetails,
    Speed,
)

__all__ = ["KEY", "LayerBits", "Quantization", "QuantizationDetails", "Speed"]


@dataclass(frozen=True)
class Quantization(Section[QuantizationDetails]):
    """The section of binarisation."""

    key: ClassVar[str] = KEY
    kind: ClassVar[type[object]] = QuantizationDetails
