"""The paper's reconstruction: one factor for each kept channel (ICCV, eq. 7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from thinet.base.values import number
from thinet.pruning.reconstruction.reconstruction import Correction, Reconstruction, solve
from thinet.pruning.statistics import ContributionMoments, Evidence, Statistic
from thinet.surgery import Consumer


def scale_factors(gram: Tensor, keep: Tensor, ridge: float = 0.0) -> Tensor:
    """Least-squares factors of the kept channels (ICCV, eq. 7).

    They minimise ||y - X_S w||^2 for y = X 1: w = 1 + G_SS^-1 G_ST 1_T, T being the removed ones.
    With a ridge the solution is drawn towards 1, that is, towards no correction.

    Args:
        gram: G = X^T X, float64 ``(C, C)``.
        keep: S, int64 ``(n,)``.
        ridge: Relative to the mean of G_SS's diagonal.

    Returns:
        w, ``(n,)``.
    """
    keep = keep.to(gram.device)
    gone = torch.ones(gram.shape[0], dtype=torch.bool, device=gram.device)
    gone[keep] = False
    missed = gram[keep][:, gone].sum(dim=1)
    return 1 + solve(gram[keep][:, keep], missed[:, None], ridge)[:, 0]


def relative_error(gram: Tensor, keep: Tensor, factors: Tensor | None = None) -> float:
    """||y - X_S w||^2 / ||y||^2 from second moments, with w = 1 unless given."""
    effect = torch.zeros(gram.shape[0], dtype=gram.dtype, device=gram.device)
    effect[keep.to(gram.device)] = 1.0 if factors is None else factors.to(gram)
    off = 1 - effect
    total = gram.sum().clamp_min(torch.finfo(gram.dtype).tiny)
    return float((off @ gram @ off).clamp_min(0) / total)


@dataclass(frozen=True)
class Scale(Reconstruction):
    """Multiplies the weights that read each kept unit by that unit's least-squares factor.

    Attributes:
        ridge: Relative strength of the pull towards factors of 1.
    """

    ridge: float = 1e-6
    needs: ClassVar[tuple[type[Statistic[Any]], ...]] = (ContributionMoments,)

    def __post_init__(self) -> None:
        number("reconstruction.build.ridge", self.ridge, "1e-4")

    def correct(
        self, weight: Tensor, consumer: Consumer, keep: Tensor, evidence: Evidence
    ) -> Correction:
        """See :meth:`Reconstruction.correct`."""
        gram = evidence[ContributionMoments].gram
        factors = gram.new_ones(gram.shape[0])
        factors[keep.to(gram.device)] = scale_factors(gram, keep, self.ridge)
        channels = consumer.channels[: weight.shape[1]].to(gram.device)
        one = gram.new_ones(())
        per_input = torch.where(channels >= 0, factors[channels.clamp_min(0)], one)
        shape = (1, -1) + (1,) * (weight.dim() - 2)
        return Correction((weight.double() * per_input.view(shape)).to(weight))

    def loss(
        self, readers: Sequence[tuple[Consumer, Tensor]], keep: Tensor, evidence: Evidence
    ) -> float:
        """See :meth:`Reconstruction.loss`."""
        gram = evidence[ContributionMoments].gram
        return relative_error(gram, keep, scale_factors(gram, keep, self.ridge))
