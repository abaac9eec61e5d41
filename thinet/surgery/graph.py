"""What a trace found: which channels go together, who makes and who reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

Role = Literal["produce", "consume", "follow"]


@dataclass(frozen=True)
class Use:
    """Along axis ``axis`` of the tensor ``tensor``, entry k belongs to the channel ``labels[k]``.

    Attributes:
        tensor: Dotted name of a parameter or buffer.
        axis: The axis of that tensor which has one entry a channel.
        role: ``produce`` (filters), ``consume`` (input channels), ``follow`` (bias, BatchNorm).
        labels: int64, one representative label an entry, negative where there is none.
    """

    tensor: str
    axis: int
    role: Role
    labels: Tensor


@dataclass(frozen=True)
class Consumer:
    """A layer that reads channels of a group.

    Attributes:
        weight: Dotted name of its weight.
        kind: ``conv`` or ``linear``.
        channels: int64, shape ``(input channels or features,)``: the unit of the group that each
            input comes from, or -1 for inputs that come from elsewhere.
        calls: How often the weight is used in one forward pass.
        unknowns: Weights of one output, C / groups * K * K or the number of features.
        outputs: D, how many outputs it has.
        groups: Of a grouped convolution; else 1.
        joins: How often its output, but for a BatchNorm as it is, is added to something else.
        shift: Dotted name of what takes up a constant added to its output: its bias, or the
            running mean of the BatchNorm right behind it. None if there is neither.
    """

    weight: str
    channels: Tensor
    calls: int
    unknowns: int
    groups: int = 1
    shift: str | None = None
    kind: Literal["conv", "linear"] = "conv"
    outputs: int = 0
    joins: int = 0

    @property
    def name(self) -> str:
        """Dotted path of the module whose ``weight`` it is, or the parameter's own name."""
        return owner(self.weight)


@dataclass(frozen=True)
class Layer:
    """A layer whose filters (or linear units) have labels.

    Attributes:
        name: Dotted path of the module, or of the parameter if it is not a module's ``weight``.
        weight: Dotted name of its weight.
        kind: ``conv`` or ``linear``.
        output_size: Spatial size of its output for the traced input.
        units: int64, shape ``(filters,)``: the unit of its group that each filter belongs to.
        axis: The axis of the weight that its filters lie along: 1 of a transposed convolution.
    """

    name: str
    weight: str
    kind: Literal["conv", "linear"]
    output_size: tuple[int, ...]
    units: Tensor
    axis: int = 0

    @property
    def filters(self) -> int:
        """How many it has."""
        return self.units.numel()

    def rows(self, weight: Tensor) -> Tensor:
        """A view of its weight with one filter a row, ``(filters, ...)``."""
        return weight.movedim(self.axis, 0)

    def kept(self, units: Sequence[int]) -> list[int]:
        """The filters that stay when these units of its group do."""
        return torch.nonzero(torch.isin(self.units, torch.tensor(units))).flatten().tolist()


@dataclass(frozen=True)
class Follower:
    """A tensor with one entry a channel of a group.

    Attributes:
        tensor: Its dotted name.
        units: int64, shape ``(entries,)``: the unit of each entry, or -1.
    """

    tensor: str
    units: Tensor


@dataclass(frozen=True)
class Group:
    """Channels that can only be removed together with others of the same unit.

    A plain layer is a group by itself and its filters are the units. The layers of a residual
    stream are one group: unit k is the k-th filter of each of them. In a grouped convolution unit
    k is the k-th channel of every group of the convolution.

    Attributes:
        name: That of its first layer.
        layers: Whose filters they are, in order of execution.
        labels: int64, shape ``(units,)``: the representative label of each unit.
        consumers: Who reads them.
        scales: Weights of the BatchNorms on these channels.
        rectified: The last operation before a ReLU on these channels.
        summed: Whether outputs of several layers are added up in them (a residual stream).
        reason: Why it cannot be pruned, or None if it can.
    """

    name: str
    layers: tuple[Layer, ...]
    labels: Tensor
    consumers: tuple[Consumer, ...] = ()
    scales: tuple[Follower, ...] = ()
    rectified: Follower | None = None
    summed: bool = False
    reason: str | None = None

    @property
    def units(self) -> int:
        """How many units it has."""
        return self.labels.numel()

    @property
    def kind(self) -> str:
        """``conv`` if one of its layers is a convolution, else ``linear``."""
        return "conv" if any(layer.kind == "conv" for layer in self.layers) else "linear"


@dataclass(frozen=True)
class ChannelGraph:
    """The channel structure of one network, found by :func:`thinet.surgery.trace.trace`.

    Attributes:
        groups: By name, in order of execution; together they hold every layer.
        uses: Every tensor axis that has an entry a channel.
        facts: What else the trace learnt; see :mod:`thinet.surgery.groups`.
    """

    groups: Mapping[str, Group]
    uses: tuple[Use, ...]
    facts: Facts

    @property
    def layers(self) -> dict[str, Layer]:
        """All layers by name, in order of execution within their groups."""
        return {layer.name: layer for group in self.groups.values() for layer in group.layers}

    def group_of(self, layer: str) -> Group:
        """The group that a layer belongs to.

        Raises:
            KeyError: If there is no such layer.
        """
        for group in self.groups.values():
            if any(member.name == layer for member in group.layers):
                return group
        raise KeyError(layer)

    def prunable(self, summed: bool = False) -> list[str]:
        """Names of the groups that can be pruned, in order of execution.

        Args:
            summed: Residual streams too.
        """
        return [
            name
            for name, group in self.groups.items()
            if group.reason is None and (summed or not group.summed)
        ]

    def removed_labels(self, keep: Mapping[str, Sequence[int]]) -> Tensor:
        """The labels that go when only the units in ``keep`` stay in the groups it names."""
        gone = []
        for name, kept in keep.items():
            stays = torch.zeros(self.groups[name].units, dtype=torch.bool)
            stays[torch.tensor(list(kept), dtype=torch.int64)] = True
            gone.append(self.groups[name].labels[~stays])
        return torch.cat(gone) if gone else torch.empty(0, dtype=torch.int64)


@dataclass(frozen=True)
class Produced:
    """What the trace learnt of one producing weight."""

    kind: Literal["conv", "linear"]
    output_size: tuple[int, ...]


@dataclass(frozen=True)
class Facts:
    """What the trace learnt beside the uses.

    Attributes:
        produced: Of each producing weight, in order of execution.
        calls: Uses of each weight in one forward pass.
        work: How often each entry of a weight is multiplied with something, for one image.
        joins: How often each weight's output, but for a BatchNorm as it is, is added to something.
        readers: Of each reading weight: weights of one output, and groups.
        shifts: Of each reading weight, what takes up a constant added to its output.
        scales: Names of BatchNorm weights.
        rectified: Labels before a ReLU, and the tensor of the last operation before it.
        frozen: Why labels may not be removed.
        summed: Labels in which several layers' outputs are added up.
        whole: Layers whose filters have no labels, and why: they are in no group.
    """

    produced: dict[str, Produced] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    work: dict[str, int] = field(default_factory=dict)
    joins: dict[str, int] = field(default_factory=dict)
    readers: dict[str, tuple[int, int]] = field(default_factory=dict)
    shifts: dict[str, str] = field(default_factory=dict)
    scales: tuple[str, ...] = ()
    rectified: tuple[tuple[Tensor, str], ...] = ()
    frozen: dict[int, str] = field(default_factory=dict)
    summed: frozenset[int] = frozenset()
    whole: dict[str, str] = field(default_factory=dict)


def owner(tensor_name: str) -> str:
    """``features.0`` for ``features.0.weight``; any other parameter stands for itself.

    So two weights that one module holds (``block.w1`` and ``block.w2``) have names of their own.
    """
    module, _, leaf = tensor_name.rpartition(".")
    return module if module and leaf == "weight" else tensor_name
