"""What a criterion is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from thinet.pruning.statistics import Evidence, Statistic
from thinet.surgery import Consumer, Group


@dataclass(frozen=True)
class Part:
    """A tensor that belongs to the units of a group.

    Attributes:
        value: One entry along its first axis for each filter (or BatchNorm channel).
        units: int64, shape ``(entries,)``: the unit of each entry, or -1.
    """

    value: Tensor
    units: Tensor


@dataclass(frozen=True)
class Candidates:
    """The units to choose from, and the weights that a criterion may look at.

    Most groups are one layer, and its filters are the units; see
    :class:`thinet.surgery.graph.Group` for coupled layers and grouped convolutions.

    Attributes:
        name: The group's name, for messages.
        units: How many there are.
        filters: The weight of each layer of the group, one filter a row, ``(filters, ...)``.
        scales: The weights (gamma) of the BatchNorms on these channels, ``(channels,)``.
        readers: The layers that read the units, with their weights ``(D, C / groups, K, K)`` or
            ``(D, F)``.
    """

    name: str
    units: int
    filters: tuple[Part, ...]
    scales: tuple[Part, ...] = ()
    readers: tuple[tuple[Consumer, Tensor], ...] = ()

    @classmethod
    def of(cls, network: nn.Module, group: Group) -> Candidates:
        """The candidates of ``group`` in ``network``."""
        return cls(
            name=group.name,
            units=group.units,
            filters=tuple(
                Part(layer.rows(network.get_parameter(layer.weight).detach()), layer.units)
                for layer in group.layers
            ),
            scales=tuple(
                Part(network.get_parameter(scale.tensor).detach(), scale.units)
                for scale in group.scales
            ),
            readers=tuple(
                (consumer, network.get_parameter(consumer.weight).detach())
                for consumer in group.consumers
            ),
        )


@dataclass(frozen=True)
class Criterion(ABC):
    """Ranks the units of a group.

    The ranking is a removal path read backwards: at every count the first so many units stay, so
    one ranking gives the choice at all widths. Every criterion is deterministic for a seed, gives
    ties to the lowest index (criteria that eliminate remove it first, the others keep it) and drops
    dead units first.

    Attributes:
        needs: The statistics it looks at.
    """

    needs: ClassVar[tuple[type[Statistic[Any]], ...]] = ()

    def check(self, candidates: Candidates) -> None:
        """Refuse, before any long work, a group that this criterion cannot rank.

        Raises:
            ThinetError: In one sentence.
        """
        return

    @abstractmethod
    def rank(self, candidates: Candidates, evidence: Evidence, seed: int) -> Tensor:
        """Rank all units.

        Args:
            candidates: The units and their weights.
            evidence: What was collected for ``needs``.
            seed: For criteria that draw.

        Returns:
            int64 ``(units,)`` on the CPU, a permutation: the first to keep comes first.
        """


def descending(scores: Tensor) -> Tensor:
    """Units by falling score; of equal ones the lowest index first.

    Args:
        scores: ``(units,)``.
    """
    return torch.argsort(scores.detach().cpu(), descending=True, stable=True)


def per_unit(parts: Sequence[Part], units: int, score: Callable[[Tensor], Tensor]) -> Tensor:
    """One score a unit from scores of single filters (or channels).

    Filters of one unit in one layer are averaged. Layers differ in scale, so with several layers
    each one's scores are divided by their mean before they are averaged in turn.

    Args:
        parts: The tensors that belong to the units.
        units: How many units there are.
        score: From a tensor of one row a filter, float64 ``(filters, ...)``, to ``(filters,)``.

    Returns:
        float64 ``(units,)`` on the CPU; 0 for a unit that no part belongs to.
    """
    total, seen = torch.zeros(2, units, dtype=torch.float64)
    for part in parts:
        found = score(part.value.double()).double().cpu()
        own = part.units >= 0
        sums, counts = torch.zeros(2, units, dtype=torch.float64)
        sums.index_add_(0, part.units[own], found[own])
        counts.index_add_(0, part.units[own], torch.ones_like(found[own]))
        there = counts > 0
        mean = sums[there] / counts[there]
        if len(parts) > 1:
            mean = mean / mean.mean().clamp_min(torch.finfo(mean.dtype).tiny)
        total[there] += mean
        seen += there
    mean_score: Tensor = total / seen.clamp_min(1)
    return mean_score
