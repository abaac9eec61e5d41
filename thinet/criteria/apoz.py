"""Average percentage of zeros (Hu et al. 2016): filters that rarely fire go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from thinet.criteria.criterion import Criterion, Selection, top
from thinet.statistics import Evidence, Statistic, ZeroFraction


@dataclass(frozen=True)
class APoZ(Criterion):
    """Keeps the filters whose activation after the ReLU is zero least often."""

    needs: ClassVar[tuple[type[Statistic[Any]], ...]] = (ZeroFraction,)

    def select(self, weight: Tensor, evidence: Evidence, count: int, seed: int) -> Selection:
        """See :meth:`Criterion.select`."""
        return top(-evidence[ZeroFraction].fraction, count)
