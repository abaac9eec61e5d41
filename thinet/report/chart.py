"""Charts as data: lines of marks over a cost or over steps, accuracies in percent upwards.

Whatever is drawn of runs is such a chart: the steps of one run (:mod:`thinet.report.steps`) and the
points of many (:mod:`thinet.report.many.points`). It is drawn as a picture
(:mod:`thinet.report.plot`) or for a page (:mod:`thinet.report.many.svg`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

COLORS, SHAPES, DASHES = 6, 8, 5
"""How many of each a drawing knows; see :mod:`thinet.report.style`."""


class Kind(Enum):
    """What stands along an axis."""

    PERCENT = "percent"
    COUNT = "count"
    PLACES = "places"


@dataclass(frozen=True)
class Scale:
    """The axis along.

    Attributes:
        label: Below it.
        kind: Percentages; counts, which are spread by their logarithm; or named places from 0.
        write: A count as text.
        names: Of the places.
        notes: A second text at each place; may be empty.
    """

    label: str
    kind: Kind
    write: Callable[[float], str] = str
    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    logarithmic: bool = True

    def along(self, value: float) -> float:
        """Where a value stands, in the units in which the axis is even."""
        return math.log10(value) if self.kind is Kind.COUNT and self.logarithmic else value

    def ticks(self, low: float, high: float) -> list[tuple[float, str]]:
        """Where to write what, between two positions."""
        if self.kind is Kind.PLACES:
            return [(float(place), name) for place, name in enumerate(self.names)]
        if self.kind is Kind.COUNT and self.logarithmic:
            values = decades(low, high)
            if len(values) < 2:
                values = [value for value in ticks(10**low, 10**high) if value > 0]
            return [(math.log10(value), self.write(value)) for value in values]
        write = self.write if self.kind is Kind.COUNT else (lambda value: f"{value:g} %")
        return [(value, write(value)) for value in ticks(low, high)]


@dataclass(frozen=True)
class Look:
    """How a line is drawn: numbers of a colour, a way of dashing and a shape; sizes in points."""

    color: int
    dashes: int = 0
    shape: int = 0
    width: float = 1.8
    size: float = 6.5


def look(line: int) -> Look:
    """How the line of this number is drawn, so that it is told apart from those before it."""
    return Look(line % COLORS, line // COLORS % DASHES, line % SHAPES)


@dataclass(frozen=True)
class Mark:
    """One point.

    Attributes:
        x: A percentage, a count or the number of a place.
        y: In percent; not a number where nothing was measured.
        low: The lowest of the runs behind it.
        high: The highest of them.
        title: What it is, in full.
        runs: The numbers of the runs.
        front: Whether no other mark is better in both directions.
    """

    x: float
    y: float
    low: float
    high: float
    title: str = ""
    runs: tuple[int, ...] = ()
    front: bool = False


@dataclass(frozen=True)
class Line:
    """Marks that belong together, in order; ``end`` is written beside the last one.

    ``number`` is that of the line among all of a data set, on whichever chart.
    """

    name: str
    marks: tuple[Mark, ...]
    look: Look
    end: str = ""
    number: int = 0


@dataclass(frozen=True)
class Level:
    """A height to compare with."""

    y: float
    text: str


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
        title: Above it.
        x: The axis along.
        y_label: Beside the axis upwards, which is in percent.
        lines: What is drawn.
        levels: Heights to compare with.
        front: The marks that nothing beats, from left to right.
        legend: Whether the lines are named above, and not at their ends.
        from_zero: Whether the axis upwards begins at zero.
        empty: What stands there if nothing is drawn.
    """

    title: str
    x: Scale
    y_label: str
    lines: tuple[Line, ...]
    levels: tuple[Level, ...] = ()
    front: tuple[Mark, ...] = field(default=())
    legend: bool = False
    from_zero: bool = False
    empty: str = "no finished point yet"

    @property
    def y_limits(self) -> tuple[float, float]:
        """From where to where accuracies go, with some room."""
        heights = [level.y for level in self.levels]
        heights += [y for line in self.lines for mark in line.marks for y in (mark.low, mark.high)]
        known = [y for y in heights if math.isfinite(y)] or [0.0, 100.0]
        if self.from_zero:
            return 0.0, max(104.0, 1.04 * max(known))
        room = 0.08 * max(max(known) - min(known), 2.0)
        return max(min(known) - room, -1.5), min(max(known) + room, 101.5)

    @property
    def x_limits(self) -> tuple[float, float]:
        """From where to where the axis along goes, in even units, with some room."""
        if self.x.kind is Kind.PLACES:
            return -0.4, len(self.x.names) - 0.6
        places = [self.x.along(mark.x) for line in self.lines for mark in line.marks] or [0.0, 1.0]
        low, high = min(places), max(places)
        margin = 0.07 * (high - low) or max(0.05 * abs(high), 0.5)
        most = 101.5 if self.x.kind is Kind.PERCENT else math.inf  # no more than all is removed
        return low - margin, min(high + margin, max(most, high))


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers between two others."""
    raw = (high - low) / about
    unit: float = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= raw)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [round(place * step, 10) for place in range(first, last + 1)]


def decades(low: float, high: float) -> list[float]:
    """1, 2, 5, 10 ... between two powers of ten; the powers alone where there are many."""
    factors = (1, 2, 5) if high - low < 2.2 else (1,)
    exponents = range(math.floor(low), math.ceil(high) + 1)
    found = [factor * 10.0**exponent for exponent in exponents for factor in factors]
    return [value for value in found if low <= math.log10(value) <= high]
