"""Positions on the page against the ticks beside them."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest

from thinet.report import chart as charts
from thinet.report.chart import Chart, Kind, Level, Line, Mark, Scale, look
from thinet.report.many.svg import BOTTOM, HEIGHT, LETTERS, SHAPES, drawing
from thinet.report.style import CYCLE, DASHES, MARKERS


def make(*marks: tuple[float, float], scale: Scale | None = None, **changes: Any) -> Chart:
    line = Line(
        "a", tuple(Mark(x, y, y - 1, y + 1, runs=(k,)) for k, (x, y) in enumerate(marks)), look(0)
    )
    return Chart("t", scale or Scale("removed", Kind.PERCENT), "top-1", (line,), **changes)


def count(logarithmic: bool = True) -> Scale:
    return Scale("FLOPs", Kind.COUNT, lambda value: f"{value:g}", logarithmic=logarithmic)


@pytest.mark.parametrize(
    ("scale", "marks"),
    [
        (None, [(20, 90), (60, 80)]),
        (count(), [(3e4, 90), (5e9, 70)]),
        (count(), [(100, 90), (120, 70)]),
        (count(False), [(0, 90), (120, 70)]),
    ],
)
def test_marks_stand_where_the_ticks_say(scale: Scale | None, marks: list[Any]) -> None:
    chart = make(*marks, scale=scale, levels=(Level(95, "baseline"),))
    found = drawing(chart)
    for axis, positions in (("x", found.x_ticks), ("y", found.y_ticks)):
        (p, text_p), (q, text_q) = positions[0], positions[-1]
        along = chart.x.along if axis == "x" else float
        low, high = (along(float(text.removesuffix(" %"))) for text in (text_p, text_q))
        for mark, (x, y) in zip(found.lines[0].marks, marks, strict=True):
            wanted = p + (along(x if axis == "x" else y) - low) / (high - low) * (q - p)
            assert getattr(mark, axis) == pytest.approx(wanted, abs=0.2)
    left, top, right, bottom = found.box
    for mark in found.lines[0].marks:
        assert left <= mark.x <= right
        assert top <= mark.high <= mark.low <= bottom
    ((level, text),) = found.levels
    assert text == "baseline"
    assert top <= level < found.lines[0].marks[0].y


@pytest.mark.parametrize("left", [True, False])
def test_the_name_of_a_level_stands_where_no_marks_are(left: bool) -> None:
    marks = [(10, 70), (80, 93)] if left else [(10, 93), (80, 70)]
    assert drawing(make(*marks, levels=(Level(95, "baseline"),))).levels_left is left


def test_what_was_not_measured_is_left_out() -> None:
    (line,) = drawing(make((20, 90), (40, math.nan), (60, 80))).lines
    assert [mark.runs for mark in line.marks] == ["0", "2"]
    assert line.path.count(",") == 2


@pytest.mark.parametrize("scale", [None, count(), count(False)])
def test_one_place_alone_has_room_around_it(scale: Scale | None) -> None:
    found = drawing(make((50, 50), scale=scale))
    ((mark,),) = (line.marks for line in found.lines)
    left, top, right, bottom = found.box
    assert left < mark.x < right
    assert top < mark.y < bottom
    assert len(found.x_ticks) >= 2


@pytest.mark.parametrize(("low", "high"), [(0, 1), (12.3, 98.7), (-0.5, 0.4), (99.98, 100.01)])
def test_ticks_are_few_round_and_inside(low: float, high: float) -> None:
    found = charts.ticks(low, high)
    assert 2 <= len(found) <= 7
    assert all(low <= value <= high for value in found)
    steps = {round(b - a, 9) for a, b in pairwise(found)}
    assert len(steps) == 1
    assert f"{steps.pop():e}"[0] in "125"


def test_both_drawings_know_every_look() -> None:
    assert (len(CYCLE), len(DASHES)) == (charts.COLORS, charts.DASHES)
    assert len(MARKERS) == len(SHAPES) == charts.SHAPES


def test_names_of_levels_that_lie_close_stand_below_each_other() -> None:
    levels = (Level(99.4, "a"), Level(20, "b"), Level(99.2, "c"), Level(99, "d"))
    names = drawing(make((10, 10), (80, 90), levels=levels)).level_names
    assert len(names) == 4
    ordered = sorted(names)
    assert all(low + LETTERS <= high + 0.2 for low, high in pairwise(ordered))
    assert names[1] == max(names), "the one far below keeps its place"
    assert max(names) <= HEIGHT - BOTTOM
