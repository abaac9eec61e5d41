"""What a reconstruction is."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from thinet.pruning.statistics import ContributionMoments, Evidence, Statistic
from thinet.surgery import Consumer

STRONGEST = 1e16
"""The largest ridge, relative to the mean of the diagonal: float64 has no more digits."""


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


def solve(A: Tensor, B: Tensor, ridge: float) -> Tensor:
    """Solve (A + λI) x = B for a symmetric positive semi-definite A.

    λ is ``ridge`` times the mean of A's diagonal, raised tenfold until the Cholesky factorisation
    succeeds, so that rank-deficient moments give the solution nearest to no correction. Beyond
    :data:`STRONGEST` nothing is left to correct.

    Args:
        A: ``(n, n)``, float64.
        B: ``(n, m)``.
        ridge: Relative strength, non-negative.

    Raises:
        ValueError: If A or the ridge is not finite, or A is not positive semi-definite: no ridge
            would help.
    """
    if not bool(torch.isfinite(A).all()) or not math.isfinite(ridge):
        raise ValueError("the moments or the ridge are not finite")
    mean = A.diagonal().mean().clamp_min(torch.finfo(A.dtype).tiny)
    eye = torch.eye(A.shape[0], dtype=A.dtype, device=A.device)
    for strength in ridges(ridge):
        factor, info = torch.linalg.cholesky_ex(A + strength * mean * eye)
        if int(info) == 0:
            return torch.cholesky_solve(B, factor)
    raise ValueError("the moments are not positive semi-definite")


def ridges(least: float) -> Iterator[float]:
    """Ridges to try one after the other: ``least``, then tenfold up to :data:`STRONGEST`."""
    strength = min(least, STRONGEST)
    while strength < STRONGEST:
        yield strength
        strength = max(10 * strength, 1e-12)
    yield STRONGEST
