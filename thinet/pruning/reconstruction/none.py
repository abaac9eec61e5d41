"""No reconstruction: the next layer keeps its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from thinet.pruning.reconstruction.reconstruction import Correction, Reconstruction
from thinet.pruning.reconstruction.scale import relative_error
from thinet.pruning.statistics import ContributionMoments, Evidence
from thinet.surgery import Consumer


@dataclass(frozen=True)
class NoReconstruction(Reconstruction):
    """Leaves the weights as they are."""

    def correct(
        self, weight: Tensor, consumer: Consumer, keep: Tensor, evidence: Evidence
    ) -> Correction:
        """See :meth:`Reconstruction.correct`."""
        return Correction(weight)

    def loss(
        self, readers: Sequence[tuple[Consumer, Tensor]], keep: Tensor, evidence: Evidence
    ) -> float:
        """See :meth:`Reconstruction.loss`."""
        return relative_error(evidence[ContributionMoments].gram, keep)
