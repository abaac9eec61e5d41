"""Second moments of the input patches of a group's consumers, for the full least squares."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from thinet.pruning.statistics.contributions import BLOCK, draw, output_size, windows
from thinet.pruning.statistics.statistic import Sampling, Statistic, second_moments
from thinet.surgery import Consumer, Group
from thinet.surgery.calls import WeightCall

LARGEST = 16_384
"""Most unknowns of one output for which second moments are formed (2 GiB in float64)."""
MOST_ROWS = 4_096
"""Rows that are kept of a layer with more unknowns than that."""


def patches(call: WeightCall, weight: Tensor, positions: Tensor | None) -> Tensor:
    """Input patches of a layer as rows.

    Args:
        call: A convolution or linear layer.
        weight: Its weight, ``(D, C / groups, K, K)`` or ``(D, F)``.
        positions: Flat output positions of each image, ``(N, L)``, or None for all.

    Returns:
        ``(groups, N * L, P)`` with P = C / groups * K * K in the order of ``weight.flatten(1)``,
        groups being 1 but for a grouped convolution.
    """
    x = call.input
    if call.kind == "linear":
        return x.reshape(1, -1, x.shape[-1])
    if positions is None:
        unfolded = F.unfold(x, weight.shape[2:], call.dilation, call.padding, call.stride)
        rows = unfolded.transpose(1, 2).flatten(0, 1)
    else:
        kernel = (weight.shape[2], weight.shape[3])
        rows = windows(x, call, kernel, positions).flatten(2).flatten(0, 1)
    return rows.view(rows.shape[0], call.groups, -1).transpose(0, 1)


def blocks(call: WeightCall, weight: Tensor, positions: Tensor | None) -> Iterator[Tensor]:
    """The rows of :func:`patches`, a few images at a time (see :data:`BLOCK`).

    All patches of a large map are many times the map: 1.8 GB for 16 images at the second layer of
    VGG-16.
    """
    if call.kind == "linear":
        yield patches(call, weight, positions)
        return
    kernel = (weight.shape[2], weight.shape[3])
    grid = math.prod(output_size(call.input, call, kernel))
    taken = grid if positions is None else positions.shape[1]
    each = max(1, BLOCK // (taken * call.input.shape[1] * math.prod(kernel)))
    for start in range(0, call.input.shape[0], each):
        part = slice(start, start + each)
        own = None if positions is None else positions[part]
        yield patches(replace(call, input=call.input[part]), weight, own)


@dataclass(frozen=True)
class Moments:
    """Sums over rows u (input patches) of one consumer, float64.

    Attributes:
        second: A = sum of u u^T of each group, ``(groups, P, P)``; empty if P is above
            :data:`LARGEST`.
        first: Sum of u, ``(groups, P)``.
        count: How many rows.
        rows: The rows themselves, ``(count, P)``, of a layer for which A would be too large.
        cross: Sum of u d^T, ``(groups, P, D / groups)``, d being what the layer's output should
            gain to be that of a reference network. None without one.
        off: Sum of d, ``(groups, D / groups)``.
        gains: d of each of ``rows``, ``(count, D)``.
    """

    second: Tensor
    first: Tensor
    count: int
    rows: Tensor | None = None
    cross: Tensor | None = None
    off: Tensor | None = None
    gains: Tensor | None = None

    def centred(self) -> Tensor:
        """Second moments about the mean, ``(groups, P, P)``: what a constant cannot take up."""
        return self.second - self.first[:, :, None] * self.first[:, None, :] / max(self.count, 1)

    def centred_cross(self) -> Tensor | None:
        """``cross`` about the means."""
        if self.cross is None or self.off is None:
            return None
        return self.cross - self.first[:, :, None] * self.off[:, None, :] / max(self.count, 1)


class Patches(NamedTuple):
    """The moments of each consumer, by the name of its weight, and the number of rows."""

    of: dict[str, Moments]
    rows: int


class PatchMoments(Statistic[Patches]):
    """First and second moments of the input patches of each consumer.

    Memory is that of the moments, 8 P^2 bytes a consumer and group (170 MB for 512 channels of a
    3 x 3 convolution), whatever the number of images; rows are formed in :func:`blocks`. A layer
    with more than :data:`LARGEST` unknowns (the first linear layer of a VGG has 25,088) keeps up
    to :data:`MOST_ROWS` rows in float32 instead, 411 MB at most there.

    Args:
        consumers: Who reads the group's units.
        positions: Positions an image, or None for all.
        images: How many calibration images there are, over all ranks.
        seed: Of the draws.
    """

    def __init__(
        self,
        consumers: tuple[Consumer, ...],
        positions: int | None,
        images: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.positions, self.images, self.seed = positions, images, seed
        self.consumers = {consumer.weight: consumer for consumer in consumers}
        self._pending: dict[tuple[str, int], tuple[Tensor, Tensor | None]] | None = None
        self._place = {consumer.weight: place for place, consumer in enumerate(consumers)}
        for place, consumer in enumerate(consumers):
            large = consumer.unknowns > LARGEST
            size = (consumer.groups, consumer.unknowns)
            second = torch.zeros(*size, 0 if large else consumer.unknowns, dtype=torch.float64)
            self.add_state(f"second{place}", second, dist_reduce_fx="sum")
            first = torch.zeros(*size, dtype=torch.float64)
            self.add_state(f"first{place}", first, dist_reduce_fx="sum")
            zero = torch.zeros((), dtype=torch.int64)
            self.add_state(f"count{place}", zero, dist_reduce_fx="sum")
            if large:
                self.add_state(f"rows{place}", [], dist_reduce_fx="cat")

    @classmethod
    def for_group(cls, group: Group, sampling: Sampling, images: int) -> Self:
        """See :meth:`Statistic.for_group`; takes more positions where rows would be too few."""
        positions = sampling.positions
        if positions is not None:
            most = max(consumer.unknowns for consumer in group.consumers)
            positions = max(positions, math.ceil(sampling.rows_per_channel * most / images))
        return cls(group.consumers, positions, images, sampling.seed)

    @property
    def watched(self) -> dict[str, int]:
        """The layers that read the units."""
        return {name: consumer.calls for name, consumer in self.consumers.items()}

    def expect_targets(self) -> None:
        """Keep what :meth:`aim` needs; call it before the first update."""
        self._pending = {}
        for consumer, place in zip(self.consumers.values(), self._place.values(), strict=True):
            each = consumer.outputs // consumer.groups
            off = torch.zeros(consumer.groups, each, dtype=torch.float64)
            self.add_state(f"off{place}", off, dist_reduce_fx="sum")
            if consumer.unknowns > LARGEST:
                self.add_state(f"gains{place}", [], dist_reduce_fx="cat")
            else:
                cross = torch.zeros(consumer.groups, consumer.unknowns, each, dtype=torch.float64)
                self.add_state(f"cross{place}", cross, dist_reduce_fx="sum")

    def update(
        self, call: WeightCall, output: Tensor, weight: Tensor, images: list[int], turn: int
    ) -> None:
        """See :meth:`Statistic.update`."""
        place = self._place[call.weight]
        if self.consumers[call.weight].unknowns > LARGEST:
            self._keep_rows(call, weight, images, turn)
            return
        second, first = getattr(self, f"second{place}"), getattr(self, f"first{place}")
        chosen = self._positions(call, weight, images, turn, self.positions)
        count = getattr(self, f"count{place}")
        kept = []
        for every in blocks(call, weight, chosen):
            for group, rows in enumerate(every):
                exact = rows.double()
                second[group] += second_moments(exact).to(second)
                first[group] += exact.sum(dim=0).to(first)
            count += every.shape[1]
            if self._pending is not None:
                kept.append(every)
        if self._pending is not None:
            # A copy: rows of a linear layer are its input itself, which may be overwritten later.
            self._pending[call.weight, turn] = (torch.cat(kept, dim=1), chosen)

    def aim(self, weight: str, turn: int, gain: Tensor) -> None:
        """Take in what a call's output should gain, after :meth:`update` has seen the call.

        Args:
            weight: Name of the consumer's weight.
            turn: Which use of it.
            gain: Of the shape of the output, ``(N, D, H, W)`` or ``(..., D)``.
        """
        if self._pending is None or (weight, turn) not in self._pending:
            return
        every, chosen = self._pending.pop((weight, turn))
        large = self.consumers[weight].unknowns > LARGEST
        if self.consumers[weight].kind == "conv":
            maps = gain.flatten(2)
            maps = maps if chosen is None else torch.take_along_dim(maps, chosen[:, None], dim=2)
            gain = maps.transpose(1, 2)
        place = self._place[weight]
        off = getattr(self, f"off{place}")
        if large:  # `every` says which rows have been kept
            wanted = gain.reshape(every.numel(), -1)[every]
            getattr(self, f"gains{place}").append(wanted.float())
            off += wanted.double().sum(dim=0).to(off)
            return
        cross = getattr(self, f"cross{place}")
        wanted = gain.reshape(every.shape[1], every.shape[0], -1).transpose(0, 1).double()
        for group, (rows, gains) in enumerate(zip(every, wanted, strict=True)):
            cross[group] += (rows.double().T @ gains).to(cross)
            off[group] += gains.sum(dim=0).to(off)

    def _positions(
        self, call: WeightCall, weight: Tensor, images: list[int], turn: int, most: int | None
    ) -> Tensor | None:
        """Sampled positions of each image, ``(N, L)``; None for all of them."""
        if call.kind == "linear" or most is None:
            return None
        grid = math.prod(output_size(call.input, call, (weight.shape[2], weight.shape[3])))
        if most >= grid:
            return None
        chosen = draw(images, most, self.seed, "patches", call.weight, turn)
        return (chosen[..., 1] * grid).long().to(call.input.device)

    def _keep_rows(self, call: WeightCall, weight: Tensor, images: list[int], turn: int) -> None:
        """Keep rows instead of moments; which ones depends on nothing but the images' numbers."""
        most = MOST_ROWS // self.consumers[call.weight].calls
        each = max(1, most // self.images)
        chosen = self._positions(call, weight, images, turn, each)
        rows = patches(call, weight, chosen)[0]
        numbers = torch.tensor(images).repeat_interleave(rows.shape[0] // len(images))
        within = torch.arange(len(rows)) % (rows.shape[0] // len(images))
        stays = ((numbers < most) & (within < each)).to(rows.device)
        rows = rows[stays].float()
        if self._pending is not None:
            self._pending[call.weight, turn] = (stays, chosen)
        place = self._place[call.weight]
        getattr(self, f"rows{place}").append(rows)
        first, count = getattr(self, f"first{place}"), getattr(self, f"count{place}")
        first += rows.double().sum(dim=0).to(first)
        count += len(rows)

    def summary(self) -> Patches:
        """See :meth:`Statistic.summary`."""
        found = {}
        for weight, place in self._place.items():
            rows = getattr(self, f"rows{place}", None)
            gains = getattr(self, f"gains{place}", None)
            found[weight] = Moments(
                getattr(self, f"second{place}"),
                getattr(self, f"first{place}"),
                int(getattr(self, f"count{place}")),
                None if rows is None else dim_zero_cat(rows),
                getattr(self, f"cross{place}", None),
                getattr(self, f"off{place}", None),
                None if gains is None else dim_zero_cat(gains),
            )
        return Patches(found, max(moments.count for moments in found.values()))
