"""``comparison.html``: many runs on one page, with curves, a table, widths and differences."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from thinet.base.files import write_text_atomic
from thinet.report import numbers
from thinet.report.axes import Axis
from thinet.report.chart import Look, look
from thinet.report.many.differences import differences, run_ranges
from thinet.report.many.points import Point, axes_of, chart, datasets, points
from thinet.report.many.runs import Entry, evaluations, gather
from thinet.report.many.svg import SHAPES, Drawing, drawing
from thinet.report.many.sweep import shared, write_entries
from thinet.report.many.table import (
    Row,
    Spread,
    figure_columns,
    make_rows,
    setting_columns,
    spreads,
)
from thinet.report.many.widths import WidthMap, width_maps
from thinet.report.template import template

NAMED = 6
"""Points of a front that are named."""


@dataclass(frozen=True)
class Key:
    """A line in the legend."""

    number: int
    name: str
    look: Look
    shape: str


@dataclass(frozen=True)
class Curve:
    """A drawing and its front in words."""

    drawing: Drawing
    front: str


@dataclass(frozen=True)
class Dataset:
    """The curves of one data set: accuracies on different images share no axis.

    Attributes:
        place: Its number on the page.
        name: Its name.
        measured: What its figures of test images are called.
        curves: One for each cost in which networks differ.
        legend: The lines.
        fronts: For each run on a front: of which costs.
        ways: For each run the lines that it belongs to, as the page calls them.
        spreads: Of points with several runs.
    """

    place: int
    name: str
    measured: str
    curves: tuple[Curve, ...]
    legend: tuple[Key, ...]
    fronts: dict[int, str]
    ways: dict[int, str]
    spreads: tuple[Spread, ...]


@dataclass(frozen=True)
class ComparePage:
    """What ``compare.html.jinja`` shows."""

    title: str
    failed: int
    shared: str
    lead: str
    datasets: tuple[Dataset, ...]
    settings: list[str]
    heads: list[str]
    rows: list[Row]
    maps: list[WidthMap]
    differences: list[tuple[str, list[tuple[str, str]]]]


def compare_report(folders: Iterable[str | Path], out: str | Path) -> Path:
    """Write ``comparison.html`` with ``sweep.csv`` and ``sweep.png`` over several runs.

    Args:
        folders: Run folders, or folders that hold run folders.
        out: Folder to write to.

    Returns:
        The page.

    Raises:
        ThinetError: If none of them holds a finished run, or if their accuracies were measured
            under different protocols.
    """
    entries = gather(folders)
    write_entries(entries, out)
    script = resources.files("thinet.report").joinpath("templates/compare.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = template("compare.html.jinja").render(
        **vars(compare_page(entries, Path(out))), script=script, digest=digest, n=numbers
    )
    return write_text_atomic(Path(out) / "comparison.html", page)


def compare_page(entries: Sequence[Entry], out: Path) -> ComparePage:
    """What the page shows.

    Args:
        entries: The runs.
        out: The folder of the page, which its links start from.
    """
    axes = axes_of(entries)
    found = tuple(
        _dataset(place, name, of_it, axes)
        for place, (name, of_it) in enumerate(datasets(entries).items())
    )
    fronts = {run: text for dataset in found for run, text in dataset.fronts.items()}
    ways = {run: way for dataset in found for run, way in dataset.ways.items()}
    keys, columns = setting_columns(entries), figure_columns(entries)
    finished = [one for one in entries if one.result]
    return ComparePage(
        title="1 run" if len(entries) == 1 else f"{len(entries)} runs",
        failed=len(entries) - len(finished),
        shared=", ".join(shared(finished)),
        lead="; ".join(one.lead for one in evaluations(entries)),
        datasets=found,
        settings=keys,
        heads=[column.head for column in columns],
        rows=make_rows(entries, keys, columns, fronts, ways, out),
        maps=width_maps(entries),
        differences=differences(entries),
    )


def _dataset(place: int, name: str, entries: Sequence[Entry], axes: Sequence[Axis]) -> Dataset:
    by_axis = {axis.name: points(entries, axis) for axis in axes}
    by_axis = {axis: found for axis, found in by_axis.items() if found}
    every = [point for found in by_axis.values() for point in found]
    names = dict(sorted({point.line: point.name for point in every}.items()))
    fronts: dict[int, str] = {}
    for axis, found in by_axis.items():
        models = [point for point in found if point.front and not point.variant]
        for run in (run for point in models for run in point.runs):
            fronts[run] = ", ".join(filter(None, (fronts.get(run), axis)))
    return Dataset(
        place,
        name,
        evaluations(entries)[0].main.name,
        tuple(
            Curve(drawing(chart(entries, axis)), _front(by_axis[axis.name]))
            for axis in axes
            if axis.name in by_axis
        ),
        tuple(_key(line, text) for line, text in names.items()),
        fronts,
        _ways(place, every),
        tuple(spreads(next(iter(by_axis.values()), []))),
    )


def _ways(place: int, found: Sequence[Point]) -> dict[int, str]:
    lines: dict[int, dict[int, None]] = {}
    for point in found:
        for run in point.runs:
            lines.setdefault(run, {})[point.line] = None
    return {run: " ".join(f"{place}-{line}" for line in of_it) for run, of_it in lines.items()}


def _key(line: int, name: str) -> Key:
    return Key(line, name, look(line), SHAPES[look(line).shape])


def _front(found: Sequence[Point]) -> str:
    """Name the points of a front, the most accurate first."""
    named = [
        f"{' '.join(filter(None, (point.name, point.size)))} ({run_ranges(point.runs)})"
        for point in sorted(found, key=lambda point: point.mean, reverse=True)
        if point.front
    ]
    more = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
    return ", ".join(named[:NAMED]) + more
