"""Average percentage of zeros (APoZ) of a layer's activations."""

from __future__ import annotations

from typing import NamedTuple, Self

import torch
from torch import Tensor

from thinet.errors import ThinetError
from thinet.statistics.statistic import Sampling, Statistic
from thinet.surgery import Layer
from thinet.surgery.calls import WeightCall


class Zeros(NamedTuple):
    """The fraction of zeros of each filter, float64 ``(C,)``, and the values counted for each."""

    fraction: Tensor
    rows: int


class ZeroFraction(Statistic[Zeros]):
    """How often each filter's activation is zero after the ReLU (Hu et al. 2016, eq. 1).

    A ReLU gives zero exactly where its input is not positive, so the last operation before it is
    watched: this counts functional and shared ReLUs too, and nothing between ReLU and the next
    layer (pooling) changes the count.

    Args:
        filters: C, the filters of the layer.
        source: Weight of the last operation before the ReLU (convolution or BatchNorm).
    """

    zeros: Tensor
    count: Tensor

    def __init__(self, filters: int, source: str) -> None:
        super().__init__()
        self.source = source
        empty = torch.zeros(filters, dtype=torch.float64)
        self.add_state("zeros", empty, dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    @classmethod
    def for_layer(cls, layer: Layer, sampling: Sampling, images: int) -> Self:
        """See :meth:`Statistic.for_layer`.

        Raises:
            ThinetError: If no ReLU follows the layer: then zeros mean nothing.
        """
        if layer.rectified is None:
            raise ThinetError(
                f"criterion=apoz counts zeros after a ReLU, but none follows {layer.name} "
                "directly: choose another criterion, for example criterion=thinet."
            )
        return cls(layer.filters, layer.rectified)

    @property
    def watched(self) -> dict[str, int]:
        """The last operation before the ReLU."""
        return {self.source: 1}

    def update(
        self, call: WeightCall, output: Tensor, weight: Tensor, images: list[int], turn: int
    ) -> None:
        """See :meth:`Statistic.update`."""
        axis = 1 if output.dim() > 2 else output.dim() - 1
        zero = (output <= 0).movedim(axis, 0).flatten(1)
        self.zeros += zero.sum(dim=1).to(self.zeros)
        if not bool(torch.isfinite(output).all()):  # NaN counts as no zero: do not lose it
            self.zeros.fill_(torch.nan)
        self.count += zero.shape[1]

    def summary(self) -> Zeros:
        """See :meth:`Statistic.summary`."""
        return Zeros(self.zeros / self.count.clamp_min(1), int(self.count))
