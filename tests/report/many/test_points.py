"""Points, lines and levels against the runs' numbers; the Pareto front against brute force."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.report.conftest import (
    distilled,
    measurement,
    pruned,
    scanned,
    scratch,
    toy,
    trained,
    write_run,
)
from thinet.report.axes import AXES, FLOPS, PARAMS, Axis
from thinet.report.chart import look
from thinet.report.many.points import (
    Point,
    axes_of,
    chart,
    drawn,
    group,
    mark_front,
    points,
)
from thinet.report.many.runs import Entry, gather
from thinet.run.result import Result


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """Entries of some results, through their files."""

    def make(*results: Result) -> list[Entry]:
        folders = [write_run(tmp_path / f"{k:03d}", result) for k, result in enumerate(results)]
        return gather(folders)

    return make


def point(cost: float, mean: float) -> Point:
    return Point(0, "", "", (), cost, mean, mean, mean, None)


@pytest.mark.parametrize("more_is_better", [True, False])
@pytest.mark.parametrize("seed", range(30))
def test_the_front_is_what_nothing_beats(more_is_better: bool, seed: int) -> None:
    rng = random.Random(seed)  # few values, so that ties are common
    found = [point(rng.randint(0, 4) / 4, rng.randint(0, 4) / 4) for _ in range(rng.randint(1, 9))]
    marked = mark_front(found, more_is_better)
    sign = 1 if more_is_better else -1

    def beats(one: Point, other: Point) -> bool:
        a, b = (sign * one.cost, one.mean), (sign * other.cost, other.mean)
        return a != b and a[0] >= b[0] and a[1] >= b[1]

    assert [p.front for p in marked] == [not any(beats(q, p) for q in found) for p in found]


def test_seeds_become_one_point_with_mean_and_spread(read: Any) -> None:
    accuracies = [0.90, 0.94, 0.95]
    entries = read(*(pruned(1, top1=top1, seed=seed) for seed, top1 in enumerate(accuracies)))
    (found,) = points(entries, FLOPS)
    assert found.runs == (1, 2, 3)
    assert (found.low, found.high) == (0.90, 0.95)
    assert found.mean == pytest.approx(0.93)
    assert found.spread == pytest.approx(statistics.stdev(accuracies))
    assert points(entries[:1], FLOPS)[0].spread is None


def test_what_says_how_small_makes_points_and_all_else_makes_lines(read: Any) -> None:
    sized = {"settings": {"criterion": "thinet", "target": "flops:0.4"}, "sizes": ("target",)}
    entries = read(
        pruned(1, ratio=0.3, share=0.3),
        pruned(1, ratio=0.7, share=0.7),
        pruned(1, ratio=0.3, share=0.3, reconstruction="refit"),
        pruned(1, ratio={"a": 0.5}, share=0.5),
        toy(network="vgg16"),
        scratch(),
        pruned(1, share=0.4, **sized),
    )
    lines = group(entries)
    assert {name: list(sizes) for name, sizes in lines.items()} == {
        "prune, scale, layerwise": ["ratio 0.3", "ratio 0.7", "ratio {a:0.5}"],
        "prune, refit, layerwise": ["ratio 0.3"],
        "binarize": ["order 2"],
        "scratch": ["ratio 0.3"],
        "prune": ["target flops:0.4"],
    }
    first = [one for one in points(entries[:4], FLOPS) if one.name == "scale"]
    assert [one.size for one in first] == ["ratio 0.7", "ratio {a:0.5}", "ratio 0.3"]


def test_lines_that_nothing_tells_apart_have_names_of_their_own(read: Any) -> None:
    entries = read(pruned(1), trained(settings={"a": "x"}), trained(settings={"b": "x"}))
    names = list(group(entries))
    assert names == ["prune", "train, x", "train, x (2)"]


def test_numbers_of_a_setting_make_lines_and_seeds_do_not(read: Any) -> None:
    longer, shorter = ({"finetune": {"final": {"epochs": n}}, "seed": n} for n in (40, 4))
    other_seed = {**shorter, "seed": 9, "logger": {"wandb": {}}}
    entries = read(*(pruned(1, config=one) for one in (longer, shorter, other_seed)))
    assert [len(runs) for sizes in group(entries).values() for runs in sizes.values()] == [1, 2]


def test_a_run_without_a_model_stands_where_its_reference_does(read: Any) -> None:
    entries = read(pruned(1, share=0.4), trained(), scanned())
    assert len(drawn(entries)) == 3
    for axis in axes_of(entries):
        found = {one.name: one for one in points(entries, axis)}
        assert (found["train"].cost, found["train"].mean) == (0, 0.9889)
        assert (found["sensitivity"].cost, found["sensitivity"].mean) == (0, 0.83)
        assert found["train"].front
        assert not found["sensitivity"].front
    assert found["prune"].cost == pytest.approx(1 - 12 / 21)


@pytest.mark.parametrize("axis", AXES, ids=lambda axis: axis.key)
def test_marks_stand_at_the_fraction_that_is_gone(axis: Axis, read: Any) -> None:
    before = measurement(0.95, binary_ops=1000)
    after = replace(
        before,
        **{axis.key: type(getattr(before, axis.key))(getattr(before, axis.key) / 4)},
        top1=0.9,
    )
    entries = read(pruned(1, reference=before, model=after))
    assert axes_of(entries) == [axis]
    found = chart(entries, axis)
    (mark,) = found.lines[0].marks
    assert (mark.x, mark.y) == (pytest.approx(75), pytest.approx(90))
    assert found.title == f"Accuracy against {axis.saved}"
    assert [level.text for level in found.levels] == ["baseline 95.00 %"]


def test_networks_of_other_models_share_the_absolute_cost(read: Any) -> None:
    entries = read(pruned(1, network="a", share=0.5, top1=0.9), toy(network="b"))
    found = chart(entries, FLOPS)
    assert found.title == "Accuracy against FLOPs left"
    (a,), (b,) = (line.marks for line in found.lines)
    assert (a.x, b.x) == (15_470_000_000, 100_000)
    assert b.front
    assert not a.front  # as good for much more
    assert [level.text for level in found.levels] == [
        "baseline a 98.89 %", "full precision b 95.00 %",
    ]  # fmt: skip


def test_levels_of_teachers_bear_their_names(read: Any) -> None:
    """Not that of the student, which is what the run made."""
    entries = read(*(
        distilled(name=name, reference=measurement(top1), settings={"teacher": teacher})
        for name, top1, teacher in (("a", 0.95, "resnet56"), ("b", 0.97, "outputs/my run"))
    ))  # fmt: skip
    found = chart(entries, FLOPS)
    assert [level.text for level in found.levels] == [
        "teacher resnet56 95.00 %", "teacher my run 97.00 %",
    ]  # fmt: skip
    assert [line.name for line in found.lines] == ["teacher resnet56", "teacher outputs/my run"]


def test_no_more_than_all_is_removed(read: Any) -> None:
    """One point alone, close to the end of the axis."""
    found = chart(read(distilled()), FLOPS)
    low, high = found.x_limits
    assert low < 98 < high <= 101.5


def test_other_references_share_the_absolute_cost_too(read: Any) -> None:
    """A student of two teachers: fractions of different networks mean little beside each other."""
    model = measurement(0.9, 1_000_000, 10_000)
    teachers = [measurement(0.95, flops, 50_000) for flops in (4_000_000, 8_000_000)]
    entries = read(*(pruned(1, reference=one, model=model) for one in teachers))
    (point,) = points(entries, FLOPS)
    assert point.cost == 1_000_000
    (point,) = points(entries, PARAMS)
    assert point.cost == pytest.approx(0.8)


def test_who_does_not_know_a_cost_is_not_drawn_against_it(read: Any) -> None:
    unknown = replace(measurement(0.9), latency_ms=None)
    entries = read(pruned(1), pruned(1, criterion="random", model=unknown))
    assert [one.name for one in points(entries, AXES[-1])] == ["thinet"]
    assert [line.look for line in chart(entries, FLOPS).lines] == [look(0), look(1)]


def test_an_accuracy_that_is_no_number_is_not_drawn(read: Any) -> None:
    nan = measurement(math.nan, top5=None)
    entries = read(scratch(), trained(reference=nan), pruned(1, reference=nan))
    assert [one.number for one in drawn(entries)] == [1, 3]
    assert chart(drawn(entries), FLOPS).levels == ()


def test_levels_are_means_over_seeds(read: Any) -> None:
    entries = read(
        *(pruned(1, seed=seed, ratio=ratio, reference=measurement(top1))
          for seed, top1 in enumerate((0.9, 0.96)) for ratio in (0.3, 0.5, 0.7)[: 1 + seed])
    )  # fmt: skip
    assert [level.y for level in chart(entries, FLOPS).levels] == [pytest.approx(93)]


def test_many_lines_are_told_apart(read: Any) -> None:
    entries = read(*(pruned(1, criterion=f"c{place}") for place in range(24)))
    looks = [line.look for line in chart(entries, FLOPS).lines]
    assert all(a != b for a, b in itertools.combinations(looks, 2))
