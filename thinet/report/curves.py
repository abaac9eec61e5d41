"""Accuracy against cost as drawings for a page: positions in an SVG, its style is the page's.

The page draws them in the reader's colours, light or dark, and at any width.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from thinet.report import numbers, style
from thinet.report.sweep import group_lines, varied

WIDTH, HEIGHT = 400, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 40
COSTS = {"flops": "FLOPs", "params": "parameters"}
COLORS = len(style.CYCLE)
SHAPES = (
    "M-4 0A4 4 0 1 0 4 0A4 4 0 1 0-4 0Z", "M-3.6-3.6H3.6V3.6H-3.6Z", "M0-5L5 0L0 5L-5 0Z",
    "M0-5L4.8 3.6H-4.8Z", "M0 5L4.8-3.6H-4.8Z",
    "M-1.6-5H1.6V-1.6H5V1.6H1.6V5H-1.6V1.6H-5V-1.6H-1.6Z",
    "M-5 0L-2-1.6V-5H2V-1.6L5 0L2 1.6V5H-2V1.6Z", "M-4.8 0L-2.4-4.2H2.4L4.8 0L2.4 4.2H-2.4Z",
)  # fmt: skip


@dataclass
class Point:
    """Runs that differ in nothing but the seed, as one point.

    ``cost`` is the fraction removed, or the count where networks differ; accuracies are fractions.
    """

    line: int
    name: str
    ratio: str
    runs: list[int]
    cost: float
    mean: float
    low: float
    high: float
    spread: float | None
    front: bool = False


@dataclass
class Chart:
    """One drawing; all positions are in the units of its ``viewBox``."""

    title: str
    label: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    lines: list[dict[str, Any]]
    front: str
    level: float | None
    size: tuple[int, int] = (WIDTH, HEIGHT)
    box: tuple[int, int, int, int] = field(
        default=(LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM)
    )  # left, top, right, bottom


def drawn(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that are points: of slim networks whose accuracy is known."""
    return [row for row in rows if row["top1"] is not None and row["ratio"] is not None]


def points(rows: Sequence[dict[str, Any]], cost: str) -> list[Point]:
    """One point for each way of pruning and ratio, in order, with the Pareto front marked.

    Args:
        rows: Of one data set, see :func:`drawn`; each also has its ``number`` in the report.
        cost: ``flops`` or ``params``.
    """
    counted = bool(varied(rows, ("model",)))
    key = cost if counted else f"{cost}_reduction"
    found = []
    for place, (name, ratios) in enumerate(group_lines(rows).items()):
        of_line = [_point(place, name, ratio, group, key) for ratio, group in ratios.items()]
        found += sorted(of_line, key=lambda point: point.cost)
    mark_front(found, more_is_better=not counted)
    return found


def _point(line: int, name: str, ratio: Any, group: list[dict[str, Any]], key: str) -> Point:
    accuracies = [row["top1"] for row in group]
    return Point(
        line, name, str(ratio), [row["number"] for row in group],
        statistics.fmean(row[key] for row in group), statistics.fmean(accuracies),
        min(accuracies), max(accuracies),
        statistics.stdev(accuracies) if len(accuracies) > 1 else None,
    )  # fmt: skip


def mark_front(found: Sequence[Point], more_is_better: bool) -> None:
    """Mark the points that no other beats in accuracy and cost at once.

    Args:
        found: The points.
        more_is_better: Whether ``cost`` is what was saved, not what is left.
    """
    sign = 1 if more_is_better else -1
    best = -math.inf
    ordered = sorted(found, key=lambda point: (-sign * point.cost, -point.mean))
    for place, point in enumerate(ordered):
        before = ordered[place - 1] if place else None
        same = before is not None and (before.cost, before.mean) == (point.cost, point.mean)
        point.front = point.mean > best or (same and before is not None and before.front)
        best = max(best, point.mean)


def make_chart(rows: Sequence[dict[str, Any]], cost: str) -> Chart:
    """Draw accuracy against a cost.

    Args:
        rows: See :func:`points`.
        cost: ``flops`` or ``params``.
    """
    found = points(rows, cost)
    counted = bool(varied(rows, ("model",)))
    known = {row["seed"]: row["top1_baseline"] for row in rows if row["top1_baseline"] is not None}
    level = statistics.fmean(known.values()) if known and not counted else None
    heights = [value for point in found for value in (point.low, point.high)]
    heights += [] if level is None else [level]
    y_low, y_high = _room(100 * min(heights), 100 * max(heights))
    costs = [_along(point.cost, counted) for point in found]
    x_low, x_high = _room(min(costs), max(costs))

    def x_of(cost_: float) -> float:
        share = (_along(cost_, counted) - x_low) / (x_high - x_low)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def y_of(accuracy: float) -> float:
        share = (100 * accuracy - y_low) / (y_high - y_low)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)

    if counted:
        x_ticks = [(x_of(value), _short(value)) for value in _decades(x_low, x_high)]
    else:
        x_ticks = [(x_of(value / 100), f"{value:g} %") for value in ticks(x_low, x_high)]
    front = sorted((point for point in found if point.front), key=lambda point: point.cost)
    what = COSTS[cost]
    return Chart(
        title=f"Accuracy against {what} {'left' if counted else 'removed'}",
        label=f"{what} of one image" if counted and cost == "flops" else f"{what} left"
        if counted else f"{what} removed",
        x_ticks=x_ticks,
        y_ticks=[(y_of(value / 100), f"{value:g} %") for value in ticks(y_low, y_high)],
        lines=_lines(found, x_of, y_of, counted),
        front=" ".join(f"{x_of(point.cost)},{y_of(point.mean)}" for point in front),
        level=None if level is None else y_of(level),
    )  # fmt: skip


def _lines(found: Sequence[Point], x_of: Any, y_of: Any, counted: bool) -> list[dict[str, Any]]:
    lines: dict[int, dict[str, Any]] = {}
    for point in found:
        line = lines.setdefault(
            point.line, {**look(point.line), "name": point.name, "path": [], "marks": []}
        )
        x, y = x_of(point.cost), y_of(point.mean)
        line["path"].append(f"{x},{y}")
        line["marks"].append(
            {"x": x, "y": y, "low": y_of(point.low), "high": y_of(point.high),
             "front": point.front, "runs": " ".join(map(str, point.runs)),
             "title": _title(point, counted)}
        )  # fmt: skip
    return [{**line, "path": " ".join(line["path"])} for line in lines.values()]


def look(line: int) -> dict[str, Any]:
    """How the line of this number is drawn: its colour, its dashes and the shape of its marks."""
    dashes = line // COLORS % len(style.DASHES)
    return {
        "number": line,
        "color": line % COLORS,
        "dashes": dashes,
        "shape": SHAPES[line % len(SHAPES)],
    }


def _title(point: Point, counted: bool) -> str:
    runs = "" if len(point.runs) == 1 else f" (mean of {len(point.runs)} runs)"
    cost = numbers.human(point.cost) if counted else f"{numbers.percent(point.cost, 1)} removed"
    front = ", on the Pareto front" if point.front else ""
    return f"{point.name}, {point.ratio}: {numbers.percent(point.mean)}{runs}, {cost}{front}"


def _short(value: float) -> str:
    return numbers.human(value).replace(".00", "")


def _along(cost: float, counted: bool) -> float:
    return math.log10(max(cost, 1.0)) if counted else 100 * cost


def _room(low: float, high: float) -> tuple[float, float]:
    """The interval with some room at both ends, also where it has no length."""
    margin = 0.07 * (high - low) or max(0.05 * abs(high), 0.5)
    return low - margin, high + margin


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers between two others."""
    raw = (high - low) / about
    unit: float = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= raw)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [round(place * step, 10) for place in range(first, last + 1)]


def _decades(low: float, high: float) -> list[float]:
    """1, 2, 5, 10 ... between two powers of ten; the powers alone where there are many."""
    factors = (1, 2, 5) if high - low < 2.2 else (1,)
    exponents = range(math.floor(low), math.ceil(high) + 1)
    found = [factor * 10.0**exponent for exponent in exponents for factor in factors]
    return [value for value in found if low <= math.log10(value) <= high]
