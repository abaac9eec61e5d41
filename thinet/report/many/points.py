"""The points, lines, bands and fronts of many runs: accuracy on test against a cost.

Runs that differ in nothing but what says how small the model becomes are a line, runs that differ
in nothing but the seed are a point of it. A run without a model stands where its reference does.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from thinet.base.records import JSON
from thinet.report import numbers
from thinet.report.axes import BINARY, FLOPS, Axis, axes
from thinet.report.chart import Chart, Kind, Level, Line, Mark, Scale, look
from thinet.report.many.runs import NAMES, Entry, evaluations, settings_of, varied
from thinet.report.table import said
from thinet.run.result import Result

Lines = dict[str, dict[str, list[Entry]]]


@dataclass(frozen=True)
class Point:
    """Runs that differ in nothing but the seed, as one point.

    Attributes:
        line: The number of the line.
        name: Its name.
        size: What the runs were asked for.
        runs: Their numbers.
        cost: The fraction removed, or the count where networks differ.
        mean: Of the accuracies, as a fraction.
        low: The lowest.
        high: The highest.
        spread: Standard deviation; None of a single run.
        front: Whether no other point beats it in accuracy and cost at once.
        variant: Of which of the runs' networks, if not of their model.
    """

    line: int
    name: str
    size: str
    runs: tuple[int, ...]
    cost: float
    mean: float
    low: float
    high: float
    spread: float | None = None
    front: bool = False
    variant: str = ""


def drawn(entries: Sequence[Entry]) -> list[Entry]:
    """The runs that are points: the accuracy on test of what they leave is known."""
    return [one for one in entries if one.result and _known(one.result.final.top1)]


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def datasets(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """The runs that are drawn, by data set: accuracies on different images share no axis.

    Neither do figures of different kinds: such runs are apart, too.
    """
    found: dict[str, list[Entry]] = {}
    for kind in evaluations(entries):
        of_it = [one for one in drawn(entries) if one.evaluated == kind]
        plain = {one.names["dataset"] for one in drawn(entries) if one.evaluated != kind}
        for one in of_it:
            name = one.names["dataset"]
            name = f"{name}, {kind.name}" if name in plain else name
            found.setdefault(name, []).append(one)
    return found


def axes_of(entries: Sequence[Entry]) -> list[Axis]:
    """The costs that runs are drawn against, the main one first; there is at least one."""
    return axes(one.result for one in entries if one.result) or [FLOPS]


def counted(entries: Sequence[Entry], axis: Axis) -> bool:
    """Whether costs are given as they are, since fractions of different networks mean little."""
    results = [one.result for one in entries if one.result]
    references = {axis.of(one.reference) for one in results}
    several = len({one.run.model for one in results}) > 1
    return several or 0 in references or (not axis.measured and len(references) > 1)


def group(entries: Sequence[Entry]) -> Lines:
    """The runs of each line, those of one line by what says how small the model becomes."""
    differ = varied(entries, (*NAMES, *settings_of(entries)))
    found: dict[tuple[str, ...], dict[str, list[Entry]]] = {}
    for one in (network for run in entries for network in (run, *_beside(run))):
        own = {key: value for key, value in one.settings.items() if key not in one.sizes}
        key = (
            *one.names.values(),
            one.variant,
            json.dumps([own, _details(one)], sort_keys=True, default=str),
        )
        found.setdefault(key, {}).setdefault(one.size, []).append(one)
    lines: Lines = {}
    for sizes in found.values():
        name = taken = _name(next(iter(sizes.values()))[0], differ)
        while taken in lines:
            taken = f"{name} ({sum(key.startswith(name) for key in lines) + 1})"
        lines[taken] = sizes
    return lines


def _beside(run: Entry) -> list[Entry]:
    """What a run trained to compare with, as entries of their own that share its number."""
    if run.result is None:
        return []
    return [
        replace(run, result=replace(run.result, model=network), variant=name)
        for name, network in run.beside.items()
        if _known(network.top1)
    ]


def _details(one: Entry) -> dict[str, JSON]:
    """What a configuration says of the work besides names, sizes, seeds and devices."""
    apart = {"seed", "dataset", "trainer", "logger", "method", *one.sizes}
    config = one.result.config if one.result else {}
    return {key: value for key, value in config.items() if key not in apart}


def _name(one: Entry, differ: Sequence[str]) -> str:
    words = []
    for key in differ:
        value = one.value(key)
        if value is not None and key not in one.sizes:
            words.append(value if key in NAMES else said(key, one.settings.get(key)))
    name = ", ".join(words) or one.names["method"]
    return f"{name}, {one.variant}" if one.variant else name


def points(entries: Sequence[Entry], axis: Axis) -> list[Point]:
    """One point for each line and size, in order of the cost, with the Pareto front marked.

    Args:
        entries: Of one data set, see :func:`drawn`. Those that do not know this cost, or do
            without one that networks may be without, are left out.
        axis: The cost.
    """
    absolute = counted(entries, axis)
    found: list[Point] = []
    for place, (name, sizes) in enumerate(group(entries).items()):
        of_line = [_point(place, name, size, runs, axis, absolute) for size, runs in sizes.items()]
        found += sorted(filter(None, of_line), key=lambda point: point.cost)
    return mark_front(found, more_is_better=not absolute)


def _cost(result: Result, axis: Axis, absolute: bool) -> float | None:
    return axis.of(result.final) if absolute else axis.removed(result)


def _point(
    line: int, name: str, size: str, entries: Sequence[Entry], axis: Axis, absolute: bool
) -> Point | None:
    costs, accuracies, runs = [], [], []
    for one in entries:
        if one.result is None or (axis.optional and not axis.of(one.result.final)):
            continue
        cost = _cost(one.result, axis, absolute)
        if cost is not None and one.result.final.top1 is not None:
            costs.append(cost)
            accuracies.append(one.result.final.top1)
            runs.append(one.number)
    if not runs:
        return None
    return Point(
        line, name, size, tuple(runs), statistics.fmean(costs), statistics.fmean(accuracies),
        min(accuracies), max(accuracies),
        statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        variant=entries[0].variant,
    )  # fmt: skip


def mark_front(found: Sequence[Point], more_is_better: bool) -> list[Point]:
    """Mark the points that no other beats in accuracy and cost at once.

    Args:
        found: The points.
        more_is_better: Whether ``cost`` is what was saved, not what is left.
    """
    sign = 1 if more_is_better else -1
    best = -math.inf
    order = sorted(range(len(found)), key=lambda i: (-sign * found[i].cost, -found[i].mean))
    fronts: dict[int, bool] = {}
    for place, i in enumerate(order):
        point, before = found[i], order[place - 1] if place else None
        same = before is not None and (found[before].cost, found[before].mean) == (
            point.cost,
            point.mean,
        )
        fronts[i] = point.mean > best or (same and before is not None and fronts[before])
        best = max(best, point.mean)
    return [replace(point, front=fronts[i]) for i, point in enumerate(found)]


def chart(entries: Sequence[Entry], axis: Axis, title: str = "") -> Chart:
    """Accuracy against a cost.

    Args:
        entries: See :func:`points`.
        axis: The cost.
        title: By default it says so.
    """
    found, absolute = points(entries, axis), counted(entries, axis)
    (kind, *_) = evaluations(entries)
    lines: dict[int, list[Point]] = {}
    for point in found:
        lines.setdefault(point.line, []).append(point)
    front = sorted((point for point in found if point.front), key=lambda point: point.cost)
    return Chart(
        title or f"{kind.title} against {f'{axis.name} left' if absolute else axis.saved}",
        scale(found, axis, absolute),
        f"{kind.quality} on test",
        tuple(
            Line(
                of_it[0].name,
                tuple(_mark(point, axis, absolute) for point in of_it),
                look(number),
                end=of_it[0].name,
                number=number,
            )
            for number, of_it in lines.items()
        ),
        levels(entries),
        tuple(_mark(point, axis, absolute) for point in front),
    )


def scale(found: Sequence[Point], axis: Axis, absolute: bool) -> Scale:
    """The axis along of some points."""
    apart = f", {axis.apart} apart" if axis.apart else ""
    if not absolute:
        return Scale(f"{axis.saved}{apart}", Kind.PERCENT)
    of_image = axis.key in (FLOPS.key, BINARY.key)
    return Scale(
        f"{axis.name} {'of one image' if of_image else 'left'}{apart}",
        Kind.COUNT,
        lambda value: axis.write(value).replace(".00", ""),
        logarithmic=all(point.cost > 0 for point in found),
    )


def levels(entries: Sequence[Entry]) -> tuple[Level, ...]:
    """The references of models that were made: the mean over seeds, one for each network.

    Those of one height, such as a network that one run cut and another one made binary, are one.
    """
    several = len({_of_reference(one) for one in entries}) > 1
    known: dict[tuple[str, ...], dict[str, float]] = {}
    for one in entries:
        result = one.result
        if result and result.model and result.reference.top1 is not None:
            if not math.isfinite(result.reference.top1):
                continue
            words = (result.reference_is, *([_of_reference(one)] if several else []))
            known.setdefault(words, {})[str(one.seed)] = result.reference.top1
    heights: dict[float, dict[tuple[str, ...], list[str]]] = {}
    for (is_what, *network), of_it in known.items():
        height = heights.setdefault(100 * statistics.fmean(of_it.values()), {})
        height.setdefault(tuple(network), []).append(is_what)
    found = []
    for y, named in heights.items():
        told = [" ".join((" and ".join(kinds), *network)) for network, kinds in named.items()]
        found.append(Level(y, f"{', '.join(told)} {y:.2f} %"))
    return tuple(found)


def _of_reference(one: Entry) -> str:
    """The network that a run is compared with: its own, or the one that a setting names."""
    is_what = one.result.reference_is if one.result else ""
    named = one.settings.get(is_what)
    return Path(named).name if isinstance(named, str) and named else one.names["model"]


def _mark(point: Point, axis: Axis, absolute: bool) -> Mark:
    runs = "" if len(point.runs) == 1 else f" (mean of {len(point.runs)} runs)"
    cost = axis.write(point.cost) if absolute else f"{numbers.percent(point.cost, 1)} removed"
    front = ", on the Pareto front" if point.front else ""
    what = ", ".join(filter(None, (point.name, point.size)))
    return Mark(
        point.cost if absolute else 100 * point.cost,
        100 * point.mean, 100 * point.low, 100 * point.high,
        f"{what}: {numbers.percent(point.mean)}{runs}, {cost}{front}",
        point.runs, point.front,
    )  # fmt: skip


def sizes_of(lines: Mapping[str, Mapping[str, Sequence[Entry]]]) -> set[int]:
    """How many runs stand behind the points."""
    return {len(of_it) for line in lines.values() for of_it in line.values()}
