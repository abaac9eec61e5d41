"""What a reconstruction is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from thinet.errors import ThinetError
from thinet.statistics import ContributionMoments, Evidence, Statistic
from thinet.surgery import Consumer


class Correction(NamedTuple):
    """What a reconstruction changes in one consumer.

    Attributes:
        weight: Its new weight, still of full size; what it says of removed inputs does not matter.
        shift: What is to be added to each of its outputs, ``(D,)``, or None. Only where
            ``consumer.shift`` names a bias or a BatchNorm mean that can take it up.
    """

    weight: Tensor
    shift: Tensor | None = None


@dataclass(frozen=True)
class Reconstruction(ABC):
    """Changes the layers that read the kept units so that they miss the others less.

    Independent of the criterion: any combines with any.

    Attributes:
        needs: The statistics that :meth:`correct` looks at.
        loss_needs: Those that :meth:`loss` looks at.
    """

    needs: ClassVar[tuple[type[Statistic[Any]], ...]] = ()
    loss_needs: ClassVar[tuple[type[Statistic[Any]], ...]] = (ContributionMoments,)

    @property
    def aims_at_original(self) -> bool:
        """Whether it wants the original network as the reference of the statistics."""
        return False

    @abstractmethod
    def correct(
        self, weight: Tensor, consumer: Consumer, keep: Tensor, evidence: Evidence
    ) -> Correction:
        """The consumer's new weight, still of full size.

        Args:
            weight: The consumer's weight, ``(D, C / groups, K, K)`` or ``(D, F)``.
            consumer: Says which unit each of its inputs comes from.
            keep: The kept units, int64, sorted.
            evidence: What was collected for ``needs``, before the cut.
        """

    @abstractmethod
    def loss(
        self, readers: Sequence[tuple[Consumer, Tensor]], keep: Tensor, evidence: Evidence
    ) -> float:
        """What the consumers' outputs lose by a cut, once this has corrected them.

        Args:
            readers: The consumers with their weights.
            keep: The kept units, int64.
            evidence: What was collected for ``loss_needs``.

        Returns:
            The squared error relative to the squared output, in [0, 1] up to rounding.
        """


def check_ridge(ridge: float) -> None:
    """Raise :class:`ThinetError` unless ``ridge`` is a number of at least 0."""
    if isinstance(ridge, bool) or not isinstance(ridge, (int, float)) or not ridge >= 0:
        raise ThinetError(
            f"reconstruction.build.ridge={ridge} is not a number of at least 0: type for example "
            "reconstruction.build.ridge=1e-4."
        )


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
