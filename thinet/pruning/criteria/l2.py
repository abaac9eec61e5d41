"""L2 norm of the filters: small ones go."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from thinet.pruning.criteria.criterion import Candidates, Criterion, descending, per_unit
from thinet.pruning.statistics import Evidence


@dataclass(frozen=True)
class L2(Criterion):
    """Keeps the filters with the largest Euclidean norm. Looks at no data.

    Source: the norm that He et al., Soft Filter Pruning, IJCAI 2018 (arXiv:1808.06866) rank by.
    """

    def rank(self, candidates: Candidates, evidence: Evidence, seed: int) -> Tensor:
        """See :meth:`Criterion.rank`."""
        return descending(per_unit(candidates.filters, candidates.units, _l2))


def _l2(filters: Tensor) -> Tensor:
    return filters.flatten(1).square().sum(dim=1).sqrt()
