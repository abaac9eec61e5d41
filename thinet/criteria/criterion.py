"""What a criterion is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from thinet.statistics import Evidence, Statistic


@dataclass(frozen=True)
class Selection:
    """Which filters stay.

    Attributes:
        keep: int64, sorted, on the CPU.
    """

    keep: Tensor

    @property
    def kept(self) -> list[int]:
        """The kept filters as a list."""
        return [int(index) for index in self.keep]


@dataclass(frozen=True)
class Criterion(ABC):
    """Chooses the filters of a layer to keep.

    A criterion returns *which to keep*, because ThiNet chooses a set and not scores. Every
    criterion is deterministic for a seed, gives ties to the lowest index and drops dead filters
    first.

    Attributes:
        needs: The statistics it looks at.
    """

    needs: ClassVar[tuple[type[Statistic[Any]], ...]] = ()

    @abstractmethod
    def select(self, weight: Tensor, evidence: Evidence, count: int, seed: int) -> Selection:
        """Choose ``count`` filters.

        Args:
            weight: The layer's weight, one filter a row: ``(C, ...)``.
            evidence: What was collected for ``needs``.
            count: How many filters stay, from 1 to C.
            seed: For criteria that draw.
        """


def top(scores: Tensor, count: int) -> Selection:
    """Keep the ``count`` highest scores; of equal ones those with the lowest index.

    Args:
        scores: ``(C,)``.
        count: How many to keep.
    """
    order = torch.argsort(scores.detach().cpu(), descending=True, stable=True)
    return Selection(order[:count].sort().values)
