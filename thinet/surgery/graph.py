"""What a trace found: the layers, who reads their channels, and what may be removed."""

from __future__ import annotations

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
    """A layer that reads channels of another.

    Attributes:
        weight: Dotted name of its weight.
        channels: int64, shape ``(input channels or features,)``: the filter of the producing layer
            that each input comes from, or -1 for inputs that come from elsewhere.
        calls: How often the weight is used in one forward pass.
        unknowns: Weights of one output, C * K * K or the number of features.
    """

    weight: str
    channels: Tensor
    calls: int
    unknowns: int

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
        filters: How many it has.
        labels: int64 representatives, shape ``(filters,)``.
        output_size: Spatial size of its output for the traced input.
        consumers: Who reads them.
        coupled: Other layers whose filters would have to go with these.
        rectified: Weight (or running mean) of the last operation before a ReLU on these channels.
        reason: Why it cannot be pruned, or None if it can.
    """

    name: str
    weight: str
    kind: Literal["conv", "linear"]
    filters: int
    labels: Tensor
    output_size: tuple[int, ...]
    consumers: tuple[Consumer, ...] = ()
    coupled: tuple[str, ...] = ()
    rectified: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class ChannelGraph:
    """The channel structure of one network, found by :func:`thinet.surgery.trace.trace`.

    Attributes:
        layers: By module path, in order of execution.
        uses: Every tensor axis that has an entry a channel.
        depthwise: Weights of convolutions that filter each channel by itself.
    """

    layers: dict[str, Layer]
    uses: tuple[Use, ...]
    depthwise: frozenset[str] = field(default_factory=frozenset)

    def prunable(self) -> list[str]:
        """Names of the layers that can be pruned by themselves, in order of execution."""
        return [name for name, layer in self.layers.items() if layer.reason is None]

    def removed_labels(self, keep: dict[str, list[int]]) -> Tensor:
        """The labels that go when only the filters in ``keep`` stay in the layers it names."""
        gone = []
        for name, kept in keep.items():
            stays = torch.zeros(self.layers[name].filters, dtype=torch.bool)
            stays[torch.tensor(kept, dtype=torch.int64)] = True
            gone.append(self.layers[name].labels[~stays])
        return torch.cat(gone) if gone else torch.empty(0, dtype=torch.int64)


def owner(tensor_name: str) -> str:
    """``features.0`` for ``features.0.weight``; any other parameter stands for itself.

    So two weights that one module holds (``block.w1`` and ``block.w2``) have names of their own.
    """
    module, _, leaf = tensor_name.rpartition(".")
    return module if module and leaf == "weight" else tensor_name
