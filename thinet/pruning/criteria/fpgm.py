"""Filter pruning via geometric median (He et al. 2019): filters that others can stand in for go."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from thinet.pruning.criteria.alive import living
from thinet.pruning.criteria.criterion import Candidates, Criterion, descending, per_unit
from thinet.pruning.statistics import Evidence


@dataclass(frozen=True)
class FPGM(Criterion):
    """Keeps the filters with the largest sum of distances to the others of their layer.

    A filter near the geometric median of its layer is the one that the rest can replace. Filters
    of zeros go before it. Looks at no data.

    Source: He et al., Filter Pruning via Geometric Median, CVPR 2019 (arXiv:1811.00250), eq. 4.
    """

    def rank(self, candidates: Candidates, evidence: Evidence, seed: int) -> Tensor:
        """See :meth:`Criterion.rank`."""
        scores = per_unit(candidates.filters, candidates.units, distances)
        return descending(torch.where(living(candidates), scores, -1.0))


def distances(filters: Tensor) -> Tensor:
    """Sum of the Euclidean distances of each filter to all filters, ``(filters,)``.

    Args:
        filters: ``(filters, ...)``.
    """
    flat = filters.flatten(1)
    # The quick way through a matrix product leaves a distance of 1e-8 between equal filters.
    exact = "donot_use_mm_for_euclid_dist"
    return torch.cdist(flat, flat, compute_mode=exact).sum(dim=1)
