"""Charts as drawings for a page: positions in an SVG, its style is the page's.

The page draws them in the reader's colours, light or dark, and at any width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from thinet.report import style
from thinet.report.chart import Chart, Line, Look, Mark, ticks

WIDTH, HEIGHT = 400, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 40
LETTERS = 13
"""Height of a line of text."""
SHAPES = (
    "M-4 0A4 4 0 1 0 4 0A4 4 0 1 0-4 0Z", "M-3.6-3.6H3.6V3.6H-3.6Z", "M0-5L5 0L0 5L-5 0Z",
    "M0-5L4.8 3.6H-4.8Z", "M0 5L4.8-3.6H-4.8Z",
    "M-1.6-5H1.6V-1.6H5V1.6H1.6V5H-1.6V1.6H-5V-1.6H-1.6Z",
    "M-5 0L-2-1.6V-5H2V-1.6L5 0L2 1.6V5H-2V1.6Z", "M-4.8 0L-2.4-4.2H2.4L4.8 0L2.4 4.2H-2.4Z",
)  # fmt: skip


@dataclass(frozen=True)
class DrawnMark:
    """A mark; ``low`` and ``high`` are the ends of its band."""

    x: float
    y: float
    low: float
    high: float
    front: bool
    runs: str
    title: str


@dataclass(frozen=True)
class DrawnLine:
    """A line: ``number`` tells the script which one it is."""

    number: int
    name: str
    look: Look
    shape: str
    path: str
    marks: tuple[DrawnMark, ...]


@dataclass(frozen=True)
class Drawing:
    """One drawing; all positions are in the units of its ``viewBox``.

    ``levels_left`` says at which end of the levels there is room for their names, and
    ``level_names`` how far down these stand, below their lines and never upon each other.
    """

    title: str
    label: str
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    lines: tuple[DrawnLine, ...]
    front: str
    levels: tuple[tuple[float, str], ...]
    levels_left: bool
    level_names: tuple[float, ...]
    size: tuple[int, int] = (WIDTH, HEIGHT)
    box: tuple[int, int, int, int] = (LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM)


def drawing(chart: Chart) -> Drawing:
    """Lay a chart out."""
    x_low, x_high = chart.x_limits
    y_low, y_high = chart.y_limits

    def x_of(along: float) -> float:
        return round(LEFT + (along - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT), 1)

    def y_of(percent: float) -> float:
        share = (percent - y_low) / (y_high - y_low)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)

    def place(mark: Mark) -> DrawnMark:
        return DrawnMark(
            x_of(chart.x.along(mark.x)), y_of(mark.y), y_of(mark.low), y_of(mark.high), mark.front,
            " ".join(map(str, mark.runs)), mark.title,
        )  # fmt: skip

    def lay(line: Line) -> DrawnLine:
        marks = tuple(place(mark) for mark in line.marks if math.isfinite(mark.y))
        shape = SHAPES[line.look.shape]
        return DrawnLine(line.number, line.name, line.look, shape, _path(marks), marks)

    return Drawing(
        chart.title,
        chart.x.label,
        tuple((x_of(at), text) for at, text in chart.x.ticks(x_low, x_high)),
        tuple((y_of(at), f"{at:g} %") for at in ticks(y_low, y_high)),
        tuple(lay(line) for line in chart.lines),
        _path([place(mark) for mark in chart.front]),
        tuple((y_of(level.y), level.text) for level in chart.levels),
        _crowd(chart, right=True) > _crowd(chart, right=False),
        tuple(
            round(LETTERS + y, 1)
            for y in style.spread(
                [y_of(level.y) for level in chart.levels], LETTERS, TOP, HEIGHT - BOTTOM - LETTERS
            )
        ),
    )


def _crowd(chart: Chart, right: bool) -> int:
    """How many marks stand below the levels' lines, where a name would stand, at one end."""
    (x_low, x_high), (y_low, y_high) = chart.x_limits, chart.y_limits
    room = 0.08 * (y_high - y_low)
    return sum(
        ((chart.x.along(mark.x) - x_low) / (x_high - x_low) > 0.5) is right
        and any(level.y - room < mark.y < level.y + room / 2 for level in chart.levels)
        for line in chart.lines
        for mark in line.marks
    )


def _path(marks: Sequence[DrawnMark]) -> str:
    return " ".join(f"{mark.x},{mark.y}" for mark in marks)
