"""ThiNet's selection with least squares in the loop (Luo et al., TPAMI 2019; the authors' code)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from thinet.pruning.criteria.criterion import Candidates, Criterion
from thinet.pruning.statistics import ContributionMoments, Evidence, Statistic


def forward_selection(gram: Tensor, count: int) -> Tensor:
    """Order in which orthogonal matching pursuit takes channels up, from second moments alone.

    Each step takes the channel j that best explains the residual r = y - X_S w by itself (the
    largest (x_j^T r)^2 / x_j^T x_j), then fits w anew on all channels taken. Since y = X 1,
    x_j^T r = (G 1 - G_:S w)_j. A Cholesky factor of G_SS grows by one row a step: O(C |S|) a step
    instead of the authors' fresh pseudo-inverse. Ties go to the lowest index; channels without
    any effect of their own (dead, or spanned by those taken) come last.

    Args:
        gram: G = X^T X, ``(C, C)``.
        count: How many to take.

    Returns:
        int64 ``(count,)``, the first taken first. A larger ``count`` begins with the same ones.
    """
    G = gram.detach().cpu().numpy().astype(np.float64, copy=False)
    diagonal = G.diagonal()
    free = diagonal > 0
    # What is left of each channel, and of y, once the span of the taken ones is projected out.
    left, target = diagonal.copy(), G.sum(axis=1)
    factor = np.zeros((count, len(G)))  # rows of the Cholesky factor, over all channels
    order: list[int] = []
    while len(order) < count and free.any():
        safe = np.where(free, diagonal, 1.0)
        gain = np.where(free, target**2 / safe, -np.inf)
        channel = int(np.argmax(gain))
        free[channel] = False
        if left[channel] <= 1e-10 * diagonal[channel]:
            continue  # spanned by the channels taken: it adds nothing
        taken = factor[: len(order)]
        row = (G[channel] - taken[:, channel] @ taken) / np.sqrt(left[channel])
        factor[len(order)] = row
        order.append(channel)
        # Projecting out the new direction: its share of y is target[channel] / sqrt(left).
        target = target - row * (target[channel] / np.sqrt(left[channel]))
        left = left - row**2
    rest = [channel for channel in np.argsort(-diagonal, kind="stable") if channel not in order]
    return torch.tensor([*order, *rest][:count], dtype=torch.int64)


@dataclass(frozen=True)
class ThiNetOMP(Criterion):
    """Takes up the units that best explain the next layers, fitting their scale at each step.

    Source: Luo et al., ThiNet: Pruning CNN Filters for a Thinner Net, TPAMI 41(10), 2019, as in
    the authors' code.
    """

    needs: ClassVar[tuple[type[Statistic[Any]], ...]] = (ContributionMoments,)

    def rank(self, candidates: Candidates, evidence: Evidence, seed: int) -> Tensor:
        """See :meth:`Criterion.rank`."""
        return forward_selection(evidence[ContributionMoments].gram, candidates.units)
