"""Full least squares of the next layer's weights (as in He et al. 2017, from moments alone)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from thinet.reconstruction.reconstruction import Reconstruction, solve
from thinet.statistics import Evidence, PatchMoments, Statistic
from thinet.surgery import Consumer


def refit_weights(weight: Tensor, moments: Tensor, stays: Tensor, ridge: float = 0.0) -> Tensor:
    """Weights of the kept inputs that best reproduce the layer's output.

    They minimise ||U W^T - U_S W_S'^T||^2: W_S' = W_S + W_T A_TS A_SS^-1 with A = U^T U, S the
    kept inputs and T the removed ones. With a ridge the solution is drawn towards W_S.

    Args:
        weight: W, ``(D, P)``, float64.
        moments: A, ``(P, P)``, float64.
        stays: bool ``(P,)``, the kept inputs S.
        ridge: Relative to the mean of A_SS's diagonal.

    Returns:
        W', ``(D, P)``, with W unchanged in the removed columns.
    """
    missed = moments[stays][:, ~stays] @ weight[:, ~stays].T
    fitted = weight.clone()
    fitted[:, stays] += solve(moments[stays][:, stays], missed, ridge).T
    return fitted


@dataclass(frozen=True)
class Refit(Reconstruction):
    """Fits all weights of the next layer anew to its own output before the cut.

    Attributes:
        ridge: Relative strength of the pull towards the weights before.
    """

    ridge: float = 1e-4
    needs: ClassVar[tuple[type[Statistic[Any]], ...]] = (PatchMoments,)

    def correct(
        self, weight: Tensor, consumer: Consumer, keep: Tensor, evidence: Evidence
    ) -> Tensor:
        """See :meth:`Reconstruction.correct`."""
        moments = evidence[PatchMoments].moments[consumer.weight]
        channels = consumer.channels.to(moments.device)
        stays = (channels < 0) | torch.isin(channels, keep.to(moments.device))
        taps = weight[0, 0].numel()
        flat = weight.to(moments).flatten(1)
        return (
            refit_weights(flat, moments, stays.repeat_interleave(taps), self.ridge)
            .view_as(weight)
            .to(weight)
        )
