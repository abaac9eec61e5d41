"""The table of a page over many runs: what stands in a cell, and the number it is sorted by."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from thinet.base.evaluation import Evaluation, Figure
from thinet.report import numbers
from thinet.report.axes import AXES, Axis
from thinet.report.many.points import Point, axes_of
from thinet.report.many.runs import NAMES, Entry, evaluations, settings_of, varied
from thinet.report.many.sweep import csv_row
from thinet.report.sections import families
from thinet.run.result import Result

LENGTH = 40
"""Characters of a setting that are shown, such as of a ratio for each layer."""


@dataclass(frozen=True)
class Cell:
    """A text and what it is sorted by; an empty ``value`` stands last in both directions."""

    text: str
    value: float | str = ""


@dataclass(frozen=True)
class Column:
    """A figure of runs: its head, its value and how that is written."""

    head: str
    value: Callable[[Entry, Result], float | None]
    write: Callable[[float | None], str] = numbers.percent


@dataclass(frozen=True)
class Row:
    """A row of the table; a failed run has an ``error`` in the place of its figures."""

    entry: Entry
    settings: tuple[Cell, ...]
    figures: tuple[Cell, ...]
    address: str
    has_report: bool
    search: str
    way: str
    error: str


@dataclass(frozen=True)
class Spread:
    """Mean and spread of the accuracy where runs differ in nothing but the seed."""

    name: str
    size: str
    runs: int
    mean: str
    deviation: str
    low: str
    high: str


def figure_columns(entries: Sequence[Entry]) -> list[Column]:
    """The figures that at least one run has, costs by the axes in which networks differ."""
    kinds = evaluations(entries)
    columns = [
        Column("reference", lambda _, result: result.reference.top1),
        *(_said(key, head) for family in families() for key, head in family.accuracies.items()),
        *(_tested(kind, kind.main) for kind in kinds),
        Column("change, points", _gain, _points),
        *(_tested(kind, one) for kind in kinds for one in kind.figures[1:]),
    ]
    found = axes_of(entries)
    columns += [_removed(axis) for axis in found if not axis.measured]
    columns += [_cost(axis) for axis in found if not axis.measured]
    columns += [make(axis) for axis in found if axis.measured for make in (_cost, _faster)]
    columns.append(Column("time", lambda _, result: result.run.seconds, numbers.seconds))
    return [
        column
        for column in columns
        if any(one.result and column.value(one, one.result) is not None for one in entries)
    ]


def _said(key: str, head: str) -> Column:
    return Column(head, lambda one, _: one.accuracies.get(key))


def _tested(kind: Evaluation, figure: Figure) -> Column:
    def value(_: Entry, result: Result) -> float | None:
        return result.final.figures()[figure.field] if result.evaluated == kind else None

    return Column(figure.name, value)


def _gain(_: Entry, result: Result) -> float | None:
    before, after = result.reference.top1, result.model.top1 if result.model else None
    return None if before is None or after is None else after - before


def _points(gain: float | None) -> str:
    return numbers.points(0.0, gain).removesuffix(" points")


def _removed(axis: Axis) -> Column:
    return Column(
        axis.saved,
        lambda _, result: axis.removed(result) if result.model else None,
        lambda value: numbers.percent(value, 1),
    )


def _cost(axis: Axis) -> Column:
    return Column(axis.name, lambda _, result: axis.of(result.final), axis.write)


def _faster(axis: Axis) -> Column:
    def times(_: Entry, result: Result) -> float | None:
        before, after = axis.of(result.reference), axis.of(result.final)
        # Two measurements of one network say nothing of what a run did.
        changed = any(one.differs(result) for one in AXES if not one.measured)
        return before / after if changed and before and after else None

    return Column(axis.less, times, lambda value: f"{value:.2f}x")


def setting_columns(entries: Sequence[Entry]) -> list[str]:
    """The names and settings that tell runs apart: what all of them share stands above the table.

    Those that say how small a model becomes are always there, and those that some runs have not.
    """
    finished = [one for one in entries if one.result]
    sizes = dict.fromkeys(key for one in entries for key in one.sizes)
    keys = [key for key in (*NAMES, *settings_of(entries)) if key not in sizes]
    differ = varied(entries, (*keys, "seed"))
    lacking = [key for key in keys if len({one.value(key) is None for one in finished}) > 1]
    shown = [key for key in keys if key in differ or key in lacking]
    return [*shown, *sizes, *(["seed"] if "seed" in differ else [])]


def make_rows(
    entries: Sequence[Entry],
    keys: Sequence[str],
    columns: Sequence[Column],
    fronts: Mapping[int, str],
    ways: Mapping[int, str],
    out: Path,
) -> list[Row]:
    """The rows of the table.

    Args:
        entries: The runs.
        keys: The settings that are columns.
        columns: The figures.
        fronts: For a run on a Pareto front: of which costs, as text.
        ways: The line in the charts that a run belongs to.
        out: The folder of the page, which the links start from.
    """
    return [
        Row(
            entry=entry,
            settings=tuple(_setting(entry.value(key)) for key in keys),
            figures=_figures(entry, columns, fronts.get(entry.number, "")),
            address=link(entry.folder, out),
            has_report=(entry.folder / "report.html").exists(),
            search=_search(entry, keys, fronts.get(entry.number, "")),
            way=ways.get(entry.number, ""),
            error=entry.error,
        )
        for entry in entries
    ]


def link(folder: Path, out: Path) -> str:
    """The address of a folder from a page in ``out``; no name becomes a scheme or markup."""
    path = os.path.relpath(folder.resolve(), out.resolve())
    return f"./{quote(path.replace(os.sep, '/'))}/"


def _figures(entry: Entry, columns: Sequence[Column], front: str) -> tuple[Cell, ...]:
    if entry.result is None:
        return ()
    cells = []
    for column in columns:
        found = column.value(entry, entry.result)
        cells.append(Cell(numbers.MISSING) if found is None else Cell(column.write(found), found))
    return (*cells, Cell(front, front))


def _search(entry: Entry, keys: Sequence[str], front: str) -> str:
    """What a filter of the form ``key=value`` is compared with, one a line."""
    known = csv_row(entry, settings_of([entry]), evaluations([entry]))
    words = {**known, **{key: entry.value(key) for key in keys}}
    words |= {"front": front or None, "run": entry.number}
    return "\n".join(f"{key}={value}" for key, value in words.items() if value is not None).lower()


def _setting(text: str | None) -> Cell:
    if text is None:
        return Cell("–")
    try:
        value: float | str = float(text)
    except ValueError:
        value = text
    return Cell(text if len(text) <= LENGTH else f"{text[: LENGTH - 2]} …", value)


def spreads(found: Sequence[Point]) -> list[Spread]:
    """Mean and spread of the points with more than one run."""
    return [
        Spread(
            point.name,
            point.size,
            len(point.runs),
            numbers.percent(point.mean),
            f"{100 * point.spread:.2f}",
            numbers.percent(point.low),
            numbers.percent(point.high),
        )
        for point in found
        if point.spread is not None
    ]
