"""What a network costs as a function of its widths, worked out from the trace, not measured.

The cost is bilinear in the widths, since a weight has an input and an output axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from thinet.metrics.cost import cost
from thinet.surgery import ChannelGraph

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CostModel:
    """FLOPs or parameters of a network as a function of the fractions that its groups keep.

    cost = rest + sum_w scale_w (fixed0_w + x . slope0_w) (fixed1_w + x . slope1_w)

    Attributes:
        names: The groups that x stands for, in order.
        rest: What does not depend on widths.
        scale: Of each weight, ``(W,)``.
        fixed: What stays of each weight's two axes whatever x is, ``(2, W)``.
        slope: How its axes grow with x, ``(2, W, groups)``.
    """

    names: tuple[str, ...]
    rest: float
    scale: Floats
    fixed: Floats
    slope: Floats

    def axes(self, kept: Floats) -> Floats:
        """The fractions of both axes of each weight, ``(2, W)``."""
        sizes: Floats = self.fixed + self.slope @ kept
        return sizes

    def __call__(self, kept: Floats) -> float:
        """The cost when group g keeps the fraction ``kept[g]`` of its units."""
        first, second = self.axes(kept)
        return self.rest + float(self.scale @ (first * second))

    def slopes(self, kept: Floats) -> Floats:
        """Derivative of the cost by each fraction, ``(groups,)``."""
        first, second = self.axes(kept)
        by_first, by_second = self.scale * second, self.scale * first
        found: Floats = by_first @ self.slope[0] + by_second @ self.slope[1]
        return found


def cost_model(
    network: nn.Module, graph: ChannelGraph, names: Sequence[str], kind: str, shape: Sequence[int]
) -> CostModel:
    """The cost model of a network.

    Args:
        network: The network that ``graph`` describes.
        graph: Its trace.
        names: The groups that may shrink.
        kind: ``flops`` or ``params``.
        shape: ``(C, H, W)`` of an image.
    """
    place = {
        label: number
        for number, name in enumerate(names)
        for label in graph.groups[name].labels.tolist()
    }
    tensors = dict(network.named_parameters())
    whole = cost(network, tuple(shape))
    axes: dict[str, dict[int, Floats]] = {}
    for use in graph.uses:
        if use.tensor in tensors:
            share = np.zeros(len(names))
            for label in use.labels.tolist():
                if label in place:
                    share[place[label]] += 1 / use.labels.numel()
            axes.setdefault(use.tensor, {})[use.axis] = share
    if kind == "flops":
        work = graph.facts.work
        weight = {name: 2.0 * work[name] * tensors[name].numel() for name in work}
    else:
        weight = {name: float(tensor.numel()) for name, tensor in tensors.items()}
    known = [name for name in axes if name in weight]
    slope = np.zeros((2, len(known), len(names)))
    for number, name in enumerate(known):
        for slot, share in enumerate(axes[name].values()):
            slope[slot, number] = share
    scale = np.array([weight[name] for name in known])
    total = whole.flops if kind == "flops" else whole.params
    return CostModel(tuple(names), total - scale.sum(), scale, 1 - slope.sum(axis=2), slope)
