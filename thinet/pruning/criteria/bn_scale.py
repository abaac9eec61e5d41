"""Scale factors of batch normalisation (Liu et al. 2017): channels with a small gamma go."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from thinet.base.errors import ThinetError
from thinet.pruning.criteria.alive import living
from thinet.pruning.criteria.criterion import Candidates, Criterion, descending, per_unit
from thinet.pruning.statistics import Evidence


@dataclass(frozen=True)
class BNScale(Criterion):
    """Keeps the channels with the largest absolute BatchNorm scale (gamma). Looks at no data.

    Source: Liu et al., Network Slimming, ICCV 2017 (arXiv:1708.06519). They train with an L1
    penalty on gamma first; in a network trained without one, gamma says less.
    """

    def check(self, candidates: Candidates) -> None:
        """See :meth:`Criterion.check`.

        Raises:
            ThinetError: If a unit has no BatchNorm.
        """
        scaled = torch.zeros(candidates.units + 1, dtype=torch.bool)  # the last entry is for -1
        for part in candidates.scales:
            scaled[part.units] = True
        if not bool(scaled[:-1].all()):
            raise ThinetError(
                f"criterion=bn_scale needs a BatchNorm behind {candidates.name}, and not all its "
                "channels have one: choose another criterion, for example criterion=thinet."
            )

    def rank(self, candidates: Candidates, evidence: Evidence, seed: int) -> Tensor:
        """See :meth:`Criterion.rank`."""
        scores = per_unit(candidates.scales, candidates.units, torch.abs)
        return descending(torch.where(living(candidates), scores, -1.0))
