"""ThiNet's statistic: what each channel contributes to sampled outputs of the next layer."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple, Self

import torch
from torch import Tensor

from thinet.base.seeding import derive_seed
from thinet.pruning.statistics.statistic import Sampling, Statistic, second_moments
from thinet.surgery import Consumer, Group
from thinet.surgery.calls import WeightCall

BLOCK = 2**25
"""Numbers that are formed at once (256 MiB in float64), unless one image makes more."""


def draw(images: list[int], count: int, *purpose: int | str) -> Tensor:
    """Uniform numbers that depend on the image's number and on nothing else of the batch.

    So the same rows are sampled with any batch size and any number of processes.

    Returns:
        float64 in [0, 1), shape ``(len(images), count, 2)``.
    """
    draws = []
    for image in images:
        generator = torch.Generator().manual_seed(derive_seed(*purpose, image))
        draws.append(torch.rand(count, 2, generator=generator, dtype=torch.float64))
    return torch.stack(draws)


def windows(x: Tensor, call: WeightCall, kernel: tuple[int, int], positions: Tensor) -> Tensor:
    """The zero-padded input windows of chosen outputs of a convolution.

    Args:
        x: Input, ``(N, C, H, W)``.
        call: Its stride, padding and dilation.
        kernel: Kernel size.
        positions: int64 ``(N, L)``, indices into the flattened output grid.

    Returns:
        ``(N, L, C, *kernel)``.
    """
    (dy, dx), (sy, sx) = _pair(call.dilation), _pair(call.stride)
    py, px = _pair(call.padding)
    columns = output_size(x, call, kernel)[1]
    top = torch.div(positions, columns, rounding_mode="floor") * sy - py
    left = positions % columns * sx - px
    rows = top[..., None, None] + (torch.arange(kernel[0], device=x.device) * dy)[:, None]
    cols = left[..., None, None] + (torch.arange(kernel[1], device=x.device) * dx)[None, :]
    image = torch.arange(x.shape[0], device=x.device)[:, None, None, None]
    height, width = x.shape[2:]
    # The map itself is not padded: for a few windows the copy would cost more than all else.
    # Advanced indices around a slice put the channel axis last: (N, L, ky, kx, C).
    found = x[image, :, rows.clamp(0, height - 1), cols.clamp(0, width - 1)]
    if py or px:
        outside = (rows < 0) | (rows >= height) | (cols < 0) | (cols >= width)
        found.masked_fill_(outside[..., None], 0)
    return found.permute(0, 1, 4, 2, 3)


def output_size(x: Tensor, call: WeightCall, kernel: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the convolution's output grid."""
    size = [
        (x.shape[2 + axis] + 2 * _pair(call.padding)[axis]
         - _pair(call.dilation)[axis] * (kernel[axis] - 1) - 1) // _pair(call.stride)[axis] + 1
        for axis in range(2)
    ]  # fmt: skip
    return size[0], size[1]


def sample_contributions(call: WeightCall, weight: Tensor, chosen: Tensor) -> Tensor:
    """Contributions of every input channel to sampled outputs of a layer (ICCV, eq. 2).

    Row for row, the contributions and the bias add up to the layer's true output (eq. 1 and 3).

    Args:
        call: A convolution, ``weight`` ``(D, C, K, K)`` and input ``(N, C, H, W)``, or a linear
            layer, ``weight`` ``(D, F)`` and input ``(N, F)``.
        weight: The layer's weight.
        chosen: Uniform numbers ``(N, L, 2)`` that choose the filter and the location.

    Returns:
        ``(N * L, C)``, or ``(N * L, F)``. Of a grouped convolution, whose filters read C / groups
        channels, ``(N * L, C / groups)``: those of the group that the filter belongs to.
    """
    x = call.input
    chosen = chosen.to(x.device)
    filters = (chosen[..., 0] * weight.shape[0]).long()
    if call.kind == "linear":
        per_image = x.reshape(chosen.shape[0], -1, x.shape[-1])
        place = (chosen[..., 1] * per_image.shape[1]).long()
        image = torch.arange(chosen.shape[0], device=x.device)[:, None]
        picked = per_image[image, place]
        return (picked * weight[filters]).reshape(-1, x.shape[-1])
    kernel = (weight.shape[2], weight.shape[3])
    rows, columns = output_size(x, call, kernel)
    place = (chosen[..., 1] * (rows * columns)).long()
    patches = windows(x, call, kernel, place)
    if call.groups > 1:
        first = filters // (weight.shape[0] // call.groups) * weight.shape[1]
        own = first[..., None] + torch.arange(weight.shape[1], device=x.device)
        patches = torch.take_along_dim(patches, own[..., None, None], dim=2)
    return (patches * weight[filters]).sum(dim=(3, 4)).reshape(-1, weight.shape[1])


class Contributions(NamedTuple):
    """G = X^T X, float64 ``(units, units)``, and the number of rows of X."""

    gram: Tensor
    rows: int


class ContributionMoments(Statistic[Contributions]):
    """G = X^T X of sampled contributions X, one row an output sample, one column a unit.

    Greedy selection, the TPAMI selection and the scale factors follow from G alone
    (||X 1_T||^2 = 1_T^T G 1_T, and X^T y = G 1 because y = X 1), so no sample is kept: memory is
    O(C^2). Contributions to several consumers are rows of their own.

    Args:
        units: C, the units of the group; a plain layer's filters.
        consumers: Who reads them.
        locations: Samples an image and call.
        seed: Of the draws.
    """

    gram: Tensor
    count: Tensor

    def __init__(
        self, units: int, consumers: tuple[Consumer, ...], locations: int, seed: int = 0
    ) -> None:
        super().__init__()
        self.consumers = {consumer.weight: consumer for consumer in consumers}
        self.locations, self.seed = locations, seed
        zero = torch.zeros(units, units, dtype=torch.float64)
        self.add_state("gram", zero, dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    @classmethod
    def for_group(cls, group: Group, sampling: Sampling, images: int) -> Self:
        """See :meth:`Statistic.for_group`; takes more locations where rows would be too few."""
        calls = sum(consumer.calls for consumer in group.consumers)
        enough = math.ceil(sampling.rows_per_channel * group.units / (images * calls))
        locations = max(sampling.locations, enough)
        return cls(group.units, group.consumers, locations, sampling.seed)

    @property
    def watched(self) -> dict[str, int]:
        """The layers that read the units."""
        return {name: consumer.calls for name, consumer in self.consumers.items()}

    def update(
        self, call: WeightCall, output: Tensor, weight: Tensor, images: list[int], turn: int
    ) -> None:
        """See :meth:`Statistic.update`."""
        # The layout of units is the same in every group of a grouped convolution.
        channels = self.consumers[call.weight].channels[: weight.shape[1]].to(call.input.device)
        chosen = draw(images, self.locations, self.seed, "contributions", call.weight, turn)
        by_image = torch.unflatten(call.input, 0, (len(images), -1))
        each = max(1, BLOCK // (self.locations * weight[0].numel()))
        for inputs, numbers in zip(
            torch.split(by_image, each), torch.split(chosen, each), strict=True
        ):
            part = replace(call, input=inputs.flatten(0, 1))
            self.add_rows(self._by_unit(sample_contributions(part, weight, numbers), channels))

    def _by_unit(self, sampled: Tensor, channels: Tensor) -> Tensor:
        """Contributions of units, ``(m, units)``, from those of inputs, in float64."""
        units = self.gram.shape[0]
        if torch.equal(channels, torch.arange(units, device=channels.device)):
            return sampled.double()
        own = channels >= 0
        rows = sampled.new_zeros(sampled.shape[0], units, dtype=torch.float64)
        # Several inputs may come from one unit: a flattened map has one feature a position.
        return rows.index_add_(1, channels[own], sampled[:, own].double())

    def add_rows(self, rows: Tensor) -> None:
        """Take in rows of contributions, ``(m, C)``."""
        self.gram += second_moments(rows).to(self.gram)
        self.count += rows.shape[0]

    def summary(self) -> Contributions:
        """See :meth:`Statistic.summary`."""
        return Contributions(self.gram, int(self.count))


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    return (values[0], values[-1])
