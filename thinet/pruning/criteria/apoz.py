"""Average percentage of zeros (Hu et al. 2016): units that rarely fire go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from thinet.pruning.criteria.criterion import Candidates, Criterion, descending
from thinet.pruning.statistics import Evidence, Statistic, ZeroFraction


@dataclass(frozen=True)
class APoZ(Criterion):
    """Keeps the units whose activation after the ReLU is zero least often.

    Source: Hu et al., Network Trimming, 2016 (arXiv:1607.03250), eq. 1.
    """

    needs: ClassVar[tuple[type[Statistic[Any]], ...]] = (ZeroFraction,)

    def rank(self, candidates: Candidates, evidence: Evidence, seed: int) -> Tensor:
        """See :meth:`Criterion.rank`."""
        return descending(-evidence[ZeroFraction].fraction)
