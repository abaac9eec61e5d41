"""No reconstruction: the next layer keeps its weights."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from thinet.reconstruction.reconstruction import Reconstruction
from thinet.statistics import Evidence
from thinet.surgery import Consumer


@dataclass(frozen=True)
class NoReconstruction(Reconstruction):
    """Leaves the weights as they are."""

    def correct(
        self, weight: Tensor, consumer: Consumer, keep: Tensor, evidence: Evidence
    ) -> Tensor:
        """See :meth:`Reconstruction.correct`."""
        return weight
