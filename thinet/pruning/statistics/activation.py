"""Mean absolute activation of a group's units, as the next layers read it."""

from __future__ import annotations

from typing import NamedTuple, Self

import torch
from torch import Tensor

from thinet.pruning.statistics.statistic import Sampling, Statistic
from thinet.surgery import Consumer, Group
from thinet.surgery.calls import WeightCall


class Activations(NamedTuple):
    """The mean of each unit, float64 ``(units,)``, and the most values behind one of them."""

    mean: Tensor
    rows: int


class MeanActivation(Statistic[Activations]):
    """Mean absolute value of each unit in the inputs of its consumers.

    Means over images, positions and inputs of a unit are taken for each consumer apart; then
    consumers count alike, however large their inputs are.

    Args:
        units: How many units the group has.
        consumers: Who reads them.
    """

    total: Tensor
    count: Tensor

    def __init__(self, units: int, consumers: tuple[Consumer, ...]) -> None:
        super().__init__()
        self.consumers = {consumer.weight: consumer for consumer in consumers}
        self._place = {consumer.weight: place for place, consumer in enumerate(consumers)}
        size = (len(consumers), units)
        self.add_state("total", torch.zeros(size, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(size, dtype=torch.int64), dist_reduce_fx="sum")

    @classmethod
    def for_group(cls, group: Group, sampling: Sampling, images: int) -> Self:
        """See :meth:`Statistic.for_group`; all positions of all images count."""
        return cls(group.units, group.consumers)

    @property
    def watched(self) -> dict[str, int]:
        """The layers that read the units."""
        return {name: consumer.calls for name, consumer in self.consumers.items()}

    def update(
        self, call: WeightCall, output: Tensor, weight: Tensor, images: list[int], turn: int
    ) -> None:
        """See :meth:`Statistic.update`."""
        channels = self.consumers[call.weight].channels.to(call.input.device)
        own = channels >= 0
        axis = 1 if call.kind == "conv" else call.input.dim() - 1
        values = call.input.detach().double().abs().movedim(axis, 0).flatten(1)[own]
        total, count = (state[self._place[call.weight]] for state in (self.total, self.count))
        total.index_add_(0, channels[own], values.sum(dim=1).to(total))
        count += torch.bincount(channels[own], minlength=len(count)) * values.shape[1]

    def summary(self) -> Activations:
        """See :meth:`Statistic.summary`; 0 for a unit that nobody reads."""
        means = self.total / self.count.clamp_min(1)
        readers = (self.count > 0).sum(dim=0).clamp_min(1)
        return Activations(means.sum(dim=0) / readers, int(self.count.max()))
