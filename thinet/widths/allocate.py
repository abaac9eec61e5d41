"""Widths for a budget: how far every group has to shrink to reach a target cost.

Allocation by error follows the losses that one ranking of each group's units predicts (ThiNet's
removal path gives the loss at every width).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from thinet.metrics.cost_model import CostModel, Floats
from thinet.surgery import ChannelGraph
from thinet.widths.resolve import rounded


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
        round_to: See :func:`thinet.widths.resolve.rounded`.
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
        round_to: See :func:`thinet.widths.resolve.rounded`.
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
