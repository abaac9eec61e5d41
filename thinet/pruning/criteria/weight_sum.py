"""Weight sum (Li et al. 2017): small filters go."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from thinet.pruning.criteria.criterion import Candidates, Criterion, descending, per_unit
from thinet.pruning.statistics import Evidence


@dataclass(frozen=True)
class WeightSum(Criterion):
    """Keeps the filters with the largest sum of absolute weights (L1 norm). Looks at no data.

    Source: Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017 (arXiv:1608.08710).
    """

    def rank(self, candidates: Candidates, evidence: Evidence, seed: int) -> Tensor:
        """See :meth:`Criterion.rank`."""
        return descending(per_unit(candidates.filters, candidates.units, _l1))


def _l1(filters: Tensor) -> Tensor:
    return filters.flatten(1).abs().sum(dim=1)
