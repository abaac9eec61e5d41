"""Random selection, the baseline that every other criterion has to beat."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from thinet.pruning.criteria.alive import living
from thinet.pruning.criteria.criterion import Candidates, Criterion, descending
from thinet.pruning.statistics import Evidence


@dataclass(frozen=True)
class Random(Criterion):
    """Keeps units drawn uniformly; units whose weights are all zero go first."""

    def rank(self, candidates: Candidates, evidence: Evidence, seed: int) -> Tensor:
        """See :meth:`Criterion.rank`."""
        generator = torch.Generator().manual_seed(seed)
        scores = torch.rand(candidates.units, generator=generator)
        return descending(torch.where(living(candidates), scores, -1.0))
