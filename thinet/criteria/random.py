"""Random selection, the baseline that every other criterion has to beat."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from thinet.criteria.criterion import Criterion, Selection, top
from thinet.statistics import Evidence


@dataclass(frozen=True)
class Random(Criterion):
    """Keeps filters drawn uniformly; filters whose weights are all zero go first."""

    def select(self, weight: Tensor, evidence: Evidence, count: int, seed: int) -> Selection:
        """See :meth:`Criterion.select`."""
        generator = torch.Generator().manual_seed(seed)
        scores = torch.rand(weight.shape[0], generator=generator)
        alive = weight.detach().flatten(1).ne(0).any(dim=1).cpu()
        return top(torch.where(alive, scores, -1.0), count)
