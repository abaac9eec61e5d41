"""Positions on the page against the runs' numbers; the Pareto front against brute force."""

from __future__ import annotations

import itertools
import random
import statistics
from typing import Any

import pytest

from thinet.report.curves import Point, make_chart, mark_front, points, ticks


def row(number: int, top1: float, removed: float, **changes: Any) -> dict[str, Any]:
    base = dict.fromkeys(("method", "model", "dataset", "reconstruction", "schedule", "allocation"))
    return {
        **base, "criterion": "thinet", "ratio": "0.5", "seed": 0, "number": number, "top1": top1,
        "top1_baseline": 0.99, "flops": int(1e9 * (1 - removed)), "flops_reduction": removed,
        "params": int(1e6 * (1 - removed / 2)), "params_reduction": removed / 2, **changes,
    }  # fmt: skip


def point(cost: float, mean: float) -> Point:
    return Point(0, "", "", [], cost, mean, mean, mean, None)


@pytest.mark.parametrize("more_is_better", [True, False])
@pytest.mark.parametrize("seed", range(30))
def test_the_front_is_what_nothing_beats(more_is_better: bool, seed: int) -> None:
    rng = random.Random(seed)  # few values, so that ties are common
    found = [point(rng.randint(0, 4) / 4, rng.randint(0, 4) / 4) for _ in range(rng.randint(1, 9))]
    mark_front(found, more_is_better)
    sign = 1 if more_is_better else -1

    def beats(one: Point, other: Point) -> bool:
        a, b = (sign * one.cost, one.mean), (sign * other.cost, other.mean)
        return a != b and a[0] >= b[0] and a[1] >= b[1]

    assert [p.front for p in found] == [not any(beats(q, p) for q in found) for p in found]


def test_seeds_become_one_point_with_mean_and_spread() -> None:
    accuracies = [0.90, 0.94, 0.95]
    rows = [row(place, top1, 0.5, seed=place) for place, top1 in enumerate(accuracies)]
    (found,) = points(rows, "flops")
    assert found.runs == [0, 1, 2]
    assert (found.low, found.high) == (0.90, 0.95)
    assert found.mean == pytest.approx(0.93)
    assert found.spread == pytest.approx(statistics.stdev(accuracies))
    assert points(rows[:1], "flops")[0].spread is None


def test_marks_stand_where_the_ticks_say() -> None:
    rows = [row(1, 0.9, 0.2, ratio="0.7"), row(2, 0.8, 0.6, ratio="0.3")]
    chart = make_chart(rows, "flops")
    marks = {mark["runs"]: mark for mark in chart.lines[0]["marks"]}
    for values, tick_positions, axis in (
        ({"1": 20, "2": 60}, chart.x_ticks, "x"),
        ({"1": 90, "2": 80}, chart.y_ticks, "y"),
    ):
        (p, text_p), (q, text_q) = tick_positions[0], tick_positions[-1]
        low, high = (float(text.removesuffix(" %")) for text in (text_p, text_q))
        for runs, value in values.items():
            wanted = p + (value - low) / (high - low) * (q - p)
            assert marks[runs][axis] == pytest.approx(wanted, abs=0.2)
    left, top, right, bottom = chart.box
    for mark in marks.values():
        assert left <= mark["x"] <= right
        assert top <= mark["high"] <= mark["low"] <= bottom
    assert chart.level is not None
    assert chart.level < marks["1"]["y"]


def test_networks_of_other_models_share_the_absolute_cost() -> None:
    rows = [row(1, 0.9, 0.5, model="a"), row(2, 0.9, 0.5, model="b", flops=5_000_000)]
    chart = make_chart(rows, "flops")
    assert chart.title == "Accuracy against FLOPs left"
    assert chart.level is None
    (a,), (b,) = (line["marks"] for line in chart.lines)
    assert b["x"] < a["x"]
    assert b["front"]
    assert not a["front"]  # as good for a hundred times the cost
    assert [text for _, text in chart.x_ticks] == ["10 M", "100 M"]


@pytest.mark.parametrize("count", [1, 2])
def test_one_place_alone_has_room_around_it(count: int) -> None:
    rows = [row(place, 0.5, 0.5, top1_baseline=None, seed=place) for place in range(count)]
    chart = make_chart(rows, "params")
    (mark,) = chart.lines[0]["marks"]
    left, top, right, bottom = chart.box
    assert left < mark["x"] < right
    assert top < mark["y"] < bottom


def test_many_lines_are_told_apart() -> None:
    rows = [row(place, 0.5, 0.5, criterion=f"c{place}") for place in range(24)]
    looks = [(x["color"], x["dashes"], x["shape"]) for x in make_chart(rows, "flops").lines]
    assert all(a != b for a, b in itertools.combinations(looks, 2))


@pytest.mark.parametrize(("low", "high"), [(0, 1), (12.3, 98.7), (-0.5, 0.4), (99.98, 100.01)])
def test_ticks_are_few_round_and_inside(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 2 <= len(found) <= 7
    assert all(low <= value <= high for value in found)
    steps = {round(b - a, 9) for a, b in itertools.pairwise(found)}
    assert len(steps) == 1
    assert f"{steps.pop():e}"[0] in "125"
