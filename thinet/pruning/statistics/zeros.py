"""Average percentage of zeros (APoZ) of a layer's activations."""

from __future__ import annotations

from typing import NamedTuple, Self

import torch
from torch import Tensor

from thinet.base.errors import ThinetError
from thinet.pruning.statistics.statistic import Sampling, Statistic
from thinet.surgery import Follower, Group
from thinet.surgery.calls import WeightCall


class Zeros(NamedTuple):
    """The fraction of zeros of each unit, float64 ``(units,)``, and the values behind them all."""

    fraction: Tensor
    rows: int


class ZeroFraction(Statistic[Zeros]):
    """How often each filter's activation is zero after the ReLU (Hu et al. 2016, eq. 1).

    A ReLU gives zero exactly where its input is not positive, so the last operation before it is
    watched: this counts functional and shared ReLUs too, and nothing between ReLU and the next
    layer (pooling) changes the count.

    Args:
        units: How many units the group has.
        source: The last operation before the ReLU (convolution or BatchNorm) and its channels.
    """

    zeros: Tensor
    count: Tensor

    def __init__(self, units: int, source: Follower) -> None:
        super().__init__()
        self.source = source
        self.add_state("zeros", torch.zeros(units, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    @classmethod
    def for_group(cls, group: Group, sampling: Sampling, images: int) -> Self:
        """See :meth:`Statistic.for_group`.

        Raises:
            ThinetError: If no ReLU follows the layers: then zeros mean nothing.
        """
        if group.rectified is None:
            raise ThinetError(
                f"criterion=apoz counts zeros after a ReLU, but none follows {group.name} "
                "directly: choose another criterion, for example criterion=thinet."
            )
        return cls(group.units, group.rectified)

    @property
    def watched(self) -> dict[str, int]:
        """The last operation before the ReLU."""
        return {self.source.tensor: 1}

    def update(
        self, call: WeightCall, output: Tensor, weight: Tensor, images: list[int], turn: int
    ) -> None:
        """See :meth:`Statistic.update`."""
        axis = 1 if output.dim() > 2 else output.dim() - 1
        zero = (output <= 0).movedim(axis, 0).flatten(1)
        units = self.source.units.to(zero.device)
        # Several channels of one unit (a grouped convolution) share its count equally.
        share = torch.bincount(units, minlength=len(self.zeros))[units]
        self.zeros.index_add_(0, units, (zero.sum(dim=1) / share).to(self.zeros))
        if not bool(torch.isfinite(output).all()):  # NaN counts as no zero: do not lose it
            self.zeros.fill_(torch.nan)
        self.count += zero.shape[1]

    def summary(self) -> Zeros:
        """See :meth:`Statistic.summary`."""
        return Zeros(self.zeros / self.count.clamp_min(1), int(self.count))
