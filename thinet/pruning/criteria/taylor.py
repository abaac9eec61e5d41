"""First-order Taylor expansion of the loss (Molchanov et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from thinet.pruning.criteria.criterion import Candidates, Criterion, descending
from thinet.pruning.statistics import Evidence, Statistic
from thinet.pruning.statistics.gradients import GateGradients


@dataclass(frozen=True)
class Taylor(Criterion):
    """Keeps the units whose removal would change the loss most, to first order.

    Source: Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019
    (arXiv:1906.10771), eq. 8 on gates. The squares are averaged over images and not over
    minibatches, so that they do not depend on the batch size. Needs labels.
    """

    needs: ClassVar[tuple[type[Statistic[Any]], ...]] = (GateGradients,)

    def rank(self, candidates: Candidates, evidence: Evidence, seed: int) -> Tensor:
        """See :meth:`Criterion.rank`."""
        return descending(evidence[GateGradients].importance)
