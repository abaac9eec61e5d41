"""ThiNet's greedy selection (Luo et al., ICCV 2017, Algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from thinet.pruning.criteria.criterion import Candidates, Criterion
from thinet.pruning.statistics import ContributionMoments, Evidence, Statistic


def greedy_removal(gram: Tensor, count: int) -> Tensor:
    """Order in which Algorithm 1 removes channels, from second moments alone.

    It removes, one at a time, the channel that least increases f(T) = ||X 1_T||^2 (eq. 6). With
    h = G 1_T, f(T + j) = f(T) + G_jj + 2 h_j, so a step costs O(C) and the samples X are not
    needed. Dead channels (G_jj = 0) go first: the score of another channel can be negative, and a
    dead one that stays makes the least squares singular. Ties go to the lowest index.

    Args:
        gram: G = X^T X, ``(C, C)``.
        count: How many to remove.

    Returns:
        int64 ``(count,)``, the first removed first. A run with a larger ``count`` begins with the
        same channels.
    """
    G = gram.detach().cpu().numpy().astype(np.float64, copy=False)
    diagonal = G.diagonal()
    dead = np.flatnonzero(diagonal <= 0)[:count]
    order = np.empty(count, dtype=np.int64)
    order[: len(dead)] = dead
    value = diagonal.copy()  # G_jj + 2 h_j, infinite once removed
    value[dead] = np.inf
    for step in range(len(dead), count):
        channel = int(np.argmin(value))
        order[step] = channel
        value += 2 * G[channel]
        value[channel] = np.inf
    return torch.from_numpy(order)


@dataclass(frozen=True)
class ThiNet(Criterion):
    """Removes the units whose loss the next layers notice least, greedily.

    The one removed last ranks first; of two that could go at a step the lower index goes.

    Source: Luo et al., ThiNet, ICCV 2017 (arXiv:1707.06342), Algorithm 1.
    """

    needs: ClassVar[tuple[type[Statistic[Any]], ...]] = (ContributionMoments,)

    def rank(self, candidates: Candidates, evidence: Evidence, seed: int) -> Tensor:
        """See :meth:`Criterion.rank`."""
        return greedy_removal(evidence[ContributionMoments].gram, candidates.units).flip(0)
