"""Many runs as one table in a file and one picture: accuracy against the cost that differs most."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from thinet.base.evaluation import Evaluation
from thinet.base.files import write_text_atomic
from thinet.report import plot, style
from thinet.report.axes import AXES, Axis
from thinet.report.chart import Chart
from thinet.report.many.points import axes_of, chart, datasets, drawn, group, sizes_of
from thinet.report.many.runs import (
    NAMES,
    Entry,
    check_protocols,
    evaluations,
    gather,
    settings_of,
    varied,
)
from thinet.report.sections import families
from thinet.report.table import said

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Cell = str | int | float | None


def write_sweep(folders: Iterable[str | Path], out: str | Path) -> tuple[Path, Path]:
    """Write ``sweep.csv`` and ``sweep.png`` over all points so far, each atomically.

    Args:
        folders: Run folders; see :func:`thinet.report.many.runs.gather`.
        out: Folder to write to.

    Returns:
        The table and the figure.

    Raises:
        ThinetError: If there are no runs, or their accuracies cannot be compared.
    """
    return write_entries(gather(folders), out)


def write_entries(entries: Sequence[Entry], out: str | Path) -> tuple[Path, Path]:
    """The same for runs that have been read."""
    rows = [csv_row(one, settings_of(entries), evaluations(entries)) for one in entries]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    table = write_text_atomic(Path(out) / "sweep.csv", text.getvalue())
    return table, style.save_png(sweep_figure(entries), Path(out) / "sweep.png")


def csv_row(one: Entry, settings: Sequence[str], kinds: Sequence[Evaluation]) -> dict[str, Cell]:
    """The row of a run: what it is, its settings, accuracies and costs; what is unknown is empty.

    Args:
        one: The run.
        settings: The columns of settings.
        kinds: Of the figures of test images; each has columns of its own.
    """
    result = one.result
    before = result.reference if result else None
    after = result.final if result else None
    row: dict[str, Cell] = {
        "name": one.name,
        **{key: one.value(key) for key in NAMES},
        "images": one.images,
        **{key: one.value(key) for key in settings},
        "resize": _resize(one),
        "seed": one.value("seed"),
        "status": one.status,
    }
    for kind in kinds:
        row |= _tested(one, kind)
    for axis in AXES:
        row[f"{axis.key}_reference"] = axis.of(before) if before else None
        row[axis.key] = axis.of(after) if after else None
        row[f"{axis.key}_reduction"] = axis.removed(result) if result else None
    return {**row, "seconds": result.run.seconds if result else None, "error": one.error or None}


def _tested(one: Entry, kind: Evaluation) -> dict[str, Cell]:
    """The figures of test images, empty where those of the run are of another kind."""
    result = one.result if one.evaluated == kind else None
    before = result.reference.figures() if result else {}
    after = result.final.figures() if result else {}
    row: dict[str, Cell] = {}
    for figure in kind.figures:
        old, new = before.get(figure.field), after.get(figure.field)
        row |= {f"{figure.key}_reference": old, figure.key: new}
        if figure == kind.main:
            row[f"{figure.key}_drop"] = None if old is None or new is None else old - new
    said = one.accuracies if result else {}
    return row | {
        kind.key(key): said.get(key) for family in families() for key in family.accuracies
    }


def _resize(one: Entry) -> str | None:
    found = one.result.protocol.get("resize") if one.result else None
    return None if found is None else str(found)


def sweep_figure(entries: Sequence[Entry]) -> Figure:
    """Accuracy against the main cost, a panel for each data set, a line for each way.

    Points that share line and size (several seeds) become their mean, with a band from the lowest
    to the highest. Points that failed are not drawn.

    Raises:
        ThinetError: If the accuracies cannot be compared.
    """
    done = drawn(entries)
    check_protocols((one.names["dataset"], one.name, _resize(one)) for one in done)
    (axis, *_) = axes_of(done)
    found = datasets(entries)
    charts = [chart(of_it, axis, name) for name, of_it in found.items()]
    charts = charts or [_without_points(entries, axis)]
    height = sum(max(4.4, 1.8 + 0.22 * len(one.lines)) for one in charts)
    kinds = " and ".join(one.title for one in evaluations(done))
    title = chart(done, axis).title if len(charts) == 1 else f"{kinds} against {axis.name}"
    lines = {name: line for of_it in found.values() for name, line in group(of_it).items()}
    return plot.picture(charts, title, _caption(entries, done, sizes_of(lines)), 8.2, 0.6 + height)


def _without_points(entries: Sequence[Entry], axis: Axis) -> Chart:
    """A chart of runs that are no points: none is finished, or no accuracy was measured."""
    blank = chart([], axis)
    if not any(one.result for one in entries):
        return blank
    return replace(blank, empty="no accuracy of a finished point is known")


def _caption(entries: Sequence[Entry], done: Sequence[Entry], sizes: set[int]) -> str:
    parts = shared(done)
    parts.append("1 point" if len(entries) == 1 else f"{len(entries)} points")
    failed = sum(one.result is None for one in entries)
    if failed:
        parts.append(f"{failed} failed")
    if max(sizes, default=1) > 1:
        number = f"{max(sizes)}" if len(sizes) == 1 else f"up to {max(sizes)}"
        what = "seeds" if len({one.value("seed") for one in done}) > 1 else "runs"
        parts.append(f"mean of {number} {what}, band from lowest to highest")
    return ", ".join(parts)


def shared(entries: Sequence[Entry]) -> list[str]:
    """What all runs have in common, in words."""
    sizes = {key for one in entries for key in one.sizes}
    keys = [key for key in (*NAMES, *settings_of(entries)) if key not in sizes]
    differ = varied(entries, keys)
    same = []
    for key in keys:
        values = [one.value(key) for one in entries]
        if key not in differ and values and values[0] is not None and None not in values:
            same.append(values[0] if key in NAMES else said(key, entries[0].settings.get(key)))
    return same
