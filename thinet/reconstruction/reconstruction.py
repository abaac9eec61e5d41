"""What a reconstruction is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from thinet.statistics import Evidence, Statistic
from thinet.surgery import Consumer


@dataclass(frozen=True)
class Reconstruction(ABC):
    """Changes the layer that reads the kept filters so that it misses the others less.

    Independent of the criterion: any combines with any.

    Attributes:
        needs: The statistics it looks at.
    """

    needs: ClassVar[tuple[type[Statistic[Any]], ...]] = ()

    @abstractmethod
    def correct(
        self, weight: Tensor, consumer: Consumer, keep: Tensor, evidence: Evidence
    ) -> Tensor:
        """The consumer's new weight, still of full size.

        Args:
            weight: The consumer's weight, ``(D, C, K, K)`` or ``(D, F)``.
            consumer: Says which filter each of its inputs comes from.
            keep: The kept filters, int64, sorted.
            evidence: What was collected for ``needs``, before the cut.

        Returns:
            A weight of the same shape; what it says of removed inputs does not matter.
        """


def solve(A: Tensor, B: Tensor, ridge: float) -> Tensor:
    """Solve (A + λI) x = B for a symmetric positive semi-definite A.

    λ is ``ridge`` times the mean of A's diagonal, raised tenfold until the Cholesky factorisation
    succeeds, so that rank-deficient moments give the solution nearest to no correction.

    Args:
        A: ``(n, n)``, float64.
        B: ``(n, m)``.
        ridge: Relative strength, non-negative.

    Raises:
        ValueError: If A is not finite: no ridge would help.
    """
    if not bool(torch.isfinite(A).all()):
        raise ValueError("the moments are not finite")
    mean = A.diagonal().mean().clamp_min(torch.finfo(A.dtype).tiny)
    eye = torch.eye(A.shape[0], dtype=A.dtype, device=A.device)
    while True:
        factor, info = torch.linalg.cholesky_ex(A + ridge * mean * eye)
        if int(info) == 0:
            return torch.cholesky_solve(B, factor)
        ridge = max(10 * ridge, 1e-12)
