"""A budget that no candidate may break, and genes near it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from thinet.base.errors import ThinetError
from thinet.widths.space import Genes, Space

CostOf = Callable[[Genes], float]
TRIES = 50
"""Attempts to bring one drawing into the window before it is given up."""


@dataclass(frozen=True)
class Window:
    """What a candidate may cost.

    Attributes:
        low: At least this: a candidate far below the budget is no answer to it.
        high: At most this.
    """

    low: float
    high: float

    def __contains__(self, cost: object) -> bool:
        return isinstance(cost, float | int) and self.low <= cost <= self.high


def check_reachable(space: Space, cost_of: CostOf, window: Window, budget: str) -> None:
    """Refuse a budget that no widths meet.

    Args:
        space: The widths to choose among.
        cost_of: What they cost.
        window: The budget.
        budget: As it was typed, for the message.

    Raises:
        ThinetError: With the range that can be reached.
    """
    least, most = cost_of(space.bottom), cost_of(space.top)
    if least > window.high or most < window.low:
        raise ThinetError(
            f"target={budget} is out of reach: with widths from {space.scales[0]} to "
            f"{space.scales[-1]} % of the {len(space.names)} groups chosen, between "
            f"{least / most:.3g} and 1 of the network's cost can be had; type a target "
            "in between, or layers=all."
        )


def draw_near(
    space: Space, cost_of: CostOf, window: Window, spread: float, rng: np.random.Generator
) -> Genes | None:
    """Random widths within the budget, or None if this drawing found none.

    One scale for all groups that meets the budget, found by halving, times a random factor for each
    group, brought back into the window by :func:`repair`. Drawing each gene evenly, as the
    authors' code does, never meets a small budget: of 200,000 such drawings none has at most
    42 M MACs in MobileNetV1.

    Args:
        space: The widths to choose among.
        cost_of: What they cost; never less for a wider group.
        window: The budget.
        spread: Standard deviation of the logarithm of each group's factor.
        rng: Where chance comes from.
    """
    factors = np.exp(spread * rng.standard_normal(space.size))
    wanted = rng.uniform(window.low, window.high)
    low, high = 0.0, float(space.scales[-1]) / float(factors.min())
    for _ in range(30):
        middle = (low + high) / 2
        if cost_of(_scaled(space, middle * factors)) <= wanted:
            low = middle
        else:
            high = middle
    return repair(space, _scaled(space, low * factors), cost_of, window, rng)


def repair(
    space: Space, genes: Genes, cost_of: CostOf, window: Window, rng: np.random.Generator
) -> Genes | None:
    """Move one gene after the other by a step until the cost is within the budget.

    Args:
        space: The widths to choose among.
        genes: Where to begin.
        cost_of: What widths cost; never less for a wider group.
        window: The budget.
        rng: Where chance comes from.

    Returns:
        Genes within the budget, or None if chance stepped over it too often.
    """
    found, crossed, before = list(genes), 0, 0
    while crossed < TRIES:
        cost = cost_of(tuple(found))
        if cost in window:
            return tuple(found)
        step = 1 if cost < window.low else -1
        crossed += step * before < 0
        before = step
        last = len(space.scales) - 1 if step > 0 else 0
        movable = [place for place, gene in enumerate(found) if gene != last]
        if not movable:
            return None
        found[int(rng.choice(movable))] += step
    return None


def _scaled(space: Space, percents: np.ndarray) -> Genes:
    """The largest scales of at most so many percent; the smallest where there is none."""
    places = np.searchsorted(np.array(space.scales), percents + 1e-9, side="right") - 1
    return tuple(int(place) for place in places.clip(0, len(space.scales) - 1))
