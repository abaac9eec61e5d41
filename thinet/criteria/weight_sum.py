"""Weight sum (Li et al. 2016): small filters go."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from thinet.criteria.criterion import Criterion, Selection, top
from thinet.statistics import Evidence


@dataclass(frozen=True)
class WeightSum(Criterion):
    """Keeps the filters with the largest sum of absolute weights (L1 norm). Looks at no data."""

    def select(self, weight: Tensor, evidence: Evidence, count: int, seed: int) -> Selection:
        """See :meth:`Criterion.select`."""
        return top(weight.detach().double().flatten(1).abs().sum(dim=1), count)
