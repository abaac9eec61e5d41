"""Widths for a budget: how far every group has to shrink to reach a target cost.

The cost of a network is bilinear in its widths, since a weight has an input and an output axis; it
is worked out from the trace, not measured. Allocation by error follows the losses that one ranking
of each group's units predicts (ThiNet's removal path gives the loss at every width).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from thinet.metrics import cost
from thinet.surgery import ChannelGraph, rounded

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


def uniform_counts(
    graph: ChannelGraph,
    names: Sequence[str],
    round_to: int,
    fits: Callable[[Mapping[str, int]], bool],
    shares: Mapping[str, float] | None = None,
) -> dict[str, int] | None:
    """The widths of the largest common ratio that fits, or None if not even the smallest does.

    Args:
        graph: The traced network.
        names: The groups that may shrink.
        round_to: See :func:`thinet.surgery.rounded`.
        fits: Whether widths stay within the budget; a smaller ratio must not be dearer.
        shares: What the common ratio is multiplied with for each group, at most to 1; 1 for all by
            default.
    """
    share = {name: 1.0 if shares is None else shares[name] for name in names}
    # Widths change only where a ratio crosses a multiple of 1 / units (or half a rounding step).
    marks = {k / (2 * graph.groups[name].units * share[name]) for name in names
             for k in range(1, 2 * graph.groups[name].units + 1)}  # fmt: skip
    ratios = sorted(marks)

    def widths(ratio: float) -> dict[str, int]:
        kept = {name: min(1.0, ratio * share[name]) for name in names}
        return {name: rounded(graph.groups[name], kept[name], round_to) for name in names}

    low, high = 0, len(ratios)  # everything below `low` fits, nothing from `high` on does
    while low < high:
        middle = (low + high) // 2
        if fits(widths(ratios[middle])):
            low = middle + 1
        else:
            high = middle
    return widths(ratios[low - 1]) if low else None


def allocated_counts(
    graph: ChannelGraph,
    model: CostModel,
    losses: Mapping[str, Floats],
    round_to: int,
    fits: Callable[[Mapping[str, int]], bool],
) -> dict[str, int] | None:
    """Widths that spend a budget where the loss for what is saved is least, greedily.

    From full width on, the step with the least loss for each unit of cost is taken until the budget
    is met. Steps lead along the lower convex hull of each group's losses, so that a dear width
    between two cheap ones is no obstacle; the savings are those at the current widths of all
    groups, since the cost of a layer depends on its neighbours.

    Args:
        graph: The traced network.
        model: Its cost.
        losses: Of each group at every width: ``(units + 1,)``, entry n for n kept units.
        round_to: See :func:`thinet.surgery.rounded`.
        fits: Whether widths stay within the budget.

    Returns:
        Widths by group, or None if not even the smallest fit.
    """
    ladders = [_ladder(graph, name, losses[name], round_to) for name in model.names]
    at = [0] * len(ladders)
    units = np.array([graph.groups[name].units for name in model.names], dtype=np.float64)

    def widths() -> dict[str, int]:
        steps = zip(model.names, ladders, at, strict=True)
        return {name: ladder[k][0] for name, ladder, k in steps}

    while not fits(widths()):
        kept = np.array([ladder[k][0] for ladder, k in zip(ladders, at, strict=True)]) / units
        slopes = model.slopes(kept)
        best, price = -1, math.inf
        for place, (ladder, k) in enumerate(zip(ladders, at, strict=True)):
            if k + 1 < len(ladder) and slopes[place] > 0:
                saved = slopes[place] * (ladder[k][0] - ladder[k + 1][0]) / units[place]
                loss = (ladder[k + 1][1] - ladder[k][1]) / saved
                if loss < price:
                    best, price = place, loss
        if best < 0:
            return None
        at[best] += 1
    return _spend_rest(graph, model, losses, round_to, fits, widths())


def _spend_rest(
    graph: ChannelGraph,
    model: CostModel,
    losses: Mapping[str, Floats],
    round_to: int,
    fits: Callable[[Mapping[str, int]], bool],
    counts: dict[str, int],
) -> dict[str, int]:
    """Widen groups again by single steps, the most useful first, as long as the budget allows."""
    steps = {name: _counts(graph, name, round_to) for name in model.names}
    while True:
        kept = np.array([counts[name] / graph.groups[name].units for name in model.names])
        best, worth = None, 0.0
        for name, slope in zip(model.names, model.slopes(kept), strict=True):
            wider = next((count for count in steps[name] if count > counts[name]), None)
            if wider is None or slope <= 0 or not fits({**counts, name: wider}):
                continue
            gain = losses[name][counts[name]] - losses[name][wider]
            value = gain / (slope * (wider - counts[name]) / graph.groups[name].units)
            if value > worth:
                best, worth = (name, wider), value
        if best is None:
            return counts
        counts = {**counts, best[0]: best[1]}


def _counts(graph: ChannelGraph, name: str, round_to: int) -> list[int]:
    """The widths that a group may have, rising."""
    group = graph.groups[name]
    found = {rounded(group, count / group.units, round_to) for count in range(1, group.units + 1)}
    return sorted(found | {group.units})


def _ladder(
    graph: ChannelGraph, name: str, losses: Floats, round_to: int
) -> list[tuple[int, float]]:
    """(width, loss) from full width down along the lower convex hull of the losses."""
    points = [(count, float(losses[count])) for count in _counts(graph, name, round_to)][::-1]
    hull: list[tuple[int, float]] = []
    for point in points:
        # A point is dropped if the way to the next one past it is cheaper for each unit.
        while len(hull) > 1 and _slope(hull[-2], point) <= _slope(hull[-2], hull[-1]):
            hull.pop()
        hull.append(point)
    return hull


def _slope(start: tuple[int, float], end: tuple[int, float]) -> float:
    return (end[1] - start[1]) / (start[0] - end[0])
