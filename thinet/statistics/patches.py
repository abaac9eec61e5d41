"""Second moments of the input patches of a layer's consumers, for the full least squares."""

from __future__ import annotations

import math
from typing import NamedTuple, Self

import torch
from torch import Tensor

from thinet.errors import ThinetError
from thinet.statistics.contributions import draw, output_size, windows
from thinet.statistics.statistic import Sampling, Statistic, second_moments
from thinet.surgery import Consumer, Layer
from thinet.surgery.calls import WeightCall

LARGEST = 16_384
"""Most unknowns of one output for which the moments are formed (2 GiB in float64)."""


def patches(call: WeightCall, weight: Tensor, positions: Tensor | None) -> Tensor:
    """Input patches of a layer as rows.

    Args:
        call: A convolution or linear layer.
        weight: Its weight, ``(D, C, K, K)`` or ``(D, F)``.
        positions: Flat output positions of each image, ``(N, L)``, or None for all.

    Returns:
        ``(N * L, C * K * K)`` in the order of ``weight.flatten(1)``.
    """
    x = call.input
    if call.kind == "linear":
        return x.reshape(-1, x.shape[-1])
    kernel = (weight.shape[2], weight.shape[3])
    if positions is None:
        rows, columns = output_size(x, call, kernel)
        positions = torch.arange(rows * columns, device=x.device).expand(x.shape[0], -1)
    return windows(x, call, kernel, positions).flatten(2).flatten(0, 1)


class Patches(NamedTuple):
    """A = U^T U of each consumer, by the name of its weight, and the number of rows of U."""

    moments: dict[str, Tensor]
    rows: int


class PatchMoments(Statistic[Patches]):
    """A = U^T U of the input patches U of each consumer, ``(C K^2, C K^2)`` in float64.

    Args:
        consumers: Who reads the layer's filters.
        sizes: C K^2 of each consumer, in the same order.
        positions: Positions an image, or None for all.
        seed: Of the draws.
    """

    count: Tensor

    def __init__(
        self,
        consumers: tuple[Consumer, ...],
        sizes: tuple[int, ...],
        positions: int | None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.positions, self.seed = positions, seed
        self.consumers = {consumer.weight: consumer for consumer in consumers}
        self._state_of = {
            consumer.weight: f"moments{place}" for place, consumer in enumerate(consumers)
        }
        for state, size in zip(self._state_of.values(), sizes, strict=True):
            zero = torch.zeros(size, size, dtype=torch.float64)
            self.add_state(state, zero, dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    @classmethod
    def for_layer(cls, layer: Layer, sampling: Sampling, images: int) -> Self:
        """See :meth:`Statistic.for_layer`; takes more positions where rows would be too few.

        Raises:
            ThinetError: If the moments of a consumer would not fit into memory.
        """
        sizes = tuple(consumer.unknowns for consumer in layer.consumers)
        for consumer, size in zip(layer.consumers, sizes, strict=True):
            if size > LARGEST:
                raise ThinetError(
                    f"reconstruction=refit would solve for {size} inputs of {consumer.name}, "
                    f"more than {LARGEST}: type reconstruction=scale, or leave {layer.name} whole "
                    "with layers=[...]."
                )
        positions = sampling.positions
        if positions is not None:
            enough = sampling.rows_per_channel * max(sizes) / images
            positions = max(positions, math.ceil(enough))
        return cls(layer.consumers, sizes, positions, sampling.seed)

    @property
    def watched(self) -> dict[str, int]:
        """The layers that read the filters."""
        return {name: consumer.calls for name, consumer in self.consumers.items()}

    def update(
        self, call: WeightCall, output: Tensor, weight: Tensor, images: list[int], turn: int
    ) -> None:
        """See :meth:`Statistic.update`."""
        places = None
        if call.kind == "conv" and self.positions is not None:
            grid = math.prod(output.shape[2:])
            if self.positions < grid:
                chosen = draw(images, self.positions, self.seed, "patches", call.weight, turn)
                places = (chosen[..., 1] * grid).long().to(call.input.device)
        rows = patches(call, weight, places).double()
        moments = getattr(self, self._state_of[call.weight])
        moments += second_moments(rows).to(moments)
        self.count += rows.shape[0]

    def summary(self) -> Patches:
        """See :meth:`Statistic.summary`."""
        moments = {weight: getattr(self, state) for weight, state in self._state_of.items()}
        return Patches(moments, int(self.count))
