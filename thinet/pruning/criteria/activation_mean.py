"""Mean activation (Molchanov et al. 2017): channels that say little go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from thinet.pruning.criteria.criterion import Candidates, Criterion, descending
from thinet.pruning.statistics import Evidence, Statistic
from thinet.pruning.statistics.activation import MeanActivation


@dataclass(frozen=True)
class ActivationMean(Criterion):
    """Keeps the units whose activation, as the next layers read it, is largest on average.

    Source: Molchanov et al., Pruning Convolutional Neural Networks for Resource Efficient
    Inference, ICLR 2017 (arXiv:1611.06440), section 2.2. Absolute values are taken, so that it
    has a meaning without a ReLU; with one they change nothing.
    """

    needs: ClassVar[tuple[type[Statistic[Any]], ...]] = (MeanActivation,)

    def rank(self, candidates: Candidates, evidence: Evidence, seed: int) -> Tensor:
        """See :meth:`Criterion.rank`."""
        return descending(evidence[MeanActivation].mean)
