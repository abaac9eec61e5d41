"""Charts as pictures: see :mod:`thinet.report.chart`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from thinet.report import style
from thinet.report.chart import Chart, Kind, Line, Scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABEL_POINTS = 9  # what a turned label takes of the axis, 72 to the inch


def picture(
    charts: Sequence[Chart], title: str, subtitle: str, width: float, height: float
) -> Figure:
    """Charts below each other, under one title.

    Args:
        charts: At least one; each names itself where there are several.
        title: First line.
        subtitle: Second line.
        width: In inches.
        height: Of the whole, in inches.
    """
    figure, axes = style.new_figure(width, height, title, subtitle, rows=len(charts))
    for ax, chart in zip(axes, charts, strict=True):
        draw(ax, chart, width)
        if len(charts) > 1:
            ax.set_title(chart.title, size=9.5, color=style.INK, loc="left")
    for ax, chart in zip(axes, charts, strict=True):  # once all of them have their places
        _label_ends(ax, chart)
    return figure


def draw(ax: Axes, chart: Chart, width: float) -> None:
    """Draw a chart without the labels at the ends of its lines, which need the final layout."""
    for level in chart.levels:
        ax.axhline(level.y, color=style.MUTED, linewidth=1.2, linestyle=(0, (5, 3)), zorder=1,
                   label=level.text if chart.legend else None)  # fmt: skip
    for line in chart.lines:
        _draw_line(ax, chart, line)
    ax.set_ylim(*chart.y_limits)
    style.percent_axis(ax)
    ax.set_ylabel(chart.y_label)
    ax.set_xlabel(chart.x.label)
    if chart.x.kind is Kind.PLACES:
        _name_places(ax, chart.x, width)
    elif chart.lines:
        found = chart.x.ticks(*chart.x_limits)
        ax.set_xticks([place for place, _ in found], [text for _, text in found])
    ax.set_xlim(*chart.x_limits)
    if chart.legend:
        style.legend_above(ax)
    else:
        _name_levels(ax, chart)
    if not chart.lines:
        ax.text(0.5, 0.5, chart.empty, transform=ax.transAxes, ha="center")


def _draw_line(ax: Axes, chart: Chart, line: Line) -> None:
    color = style.CYCLE[line.look.color]
    x = [chart.x.along(mark.x) for mark in line.marks]
    low, high = [mark.low for mark in line.marks], [mark.high for mark in line.marks]
    if any(a < b for a, b in zip(low, high, strict=True)):
        ax.fill_between(x, low, high, color=color, alpha=0.13, linewidth=0)
        ax.vlines(x, low, high, color=color, linewidth=1.0, alpha=0.55)
    ax.plot(
        x, [mark.y for mark in line.marks], color=color, label=line.name,
        marker=style.MARKERS[line.look.shape], markersize=line.look.size, markeredgecolor="white",
        markeredgewidth=0.7, linewidth=line.look.width, linestyle=style.DASHES[line.look.dashes],
    )  # fmt: skip


def _name_levels(ax: Axes, chart: Chart) -> None:
    for level in chart.levels:
        ax.annotate(
            level.text, (0.01, level.y), xycoords=ax.get_yaxis_transform(), xytext=(0, 3),
            textcoords="offset points", size=8.5, color=style.MUTED,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
        )  # fmt: skip


def _label_ends(ax: Axes, chart: Chart) -> None:
    ends = []
    for line in chart.lines:
        known = [mark for mark in line.marks if math.isfinite(mark.y)]
        if line.end and known:
            x = chart.x.along(known[-1].x)
            color = style.CYCLE[line.look.color]
            ends.append(style.EndLabel(x, known[-1].y, line.end, color))
    if ends:
        style.label_ends(ax, ends)


def _name_places(ax: Axes, scale: Scale, width: float) -> None:
    """Label the places: upright text while it fits, else turned by 90 degrees."""
    names = [style.short(name) for name in scale.names]
    notes = scale.notes or ("",) * len(names)
    room = (width - 2.2) / max(len(names), 2) * 72 / (7.5 * 0.6)  # characters a place holds
    upright = max(map(len, (*names, *notes))) <= room
    between = "\n" if upright else "  "
    labels = [f"{name}{between}{note}".rstrip() for name, note in zip(names, notes, strict=True)]
    size = 8 if not upright and len(names) <= 30 else 7.5
    places = _labelled(len(names), width)
    ax.set_xticks(
        places, [labels[place] for place in places], size=size, rotation=0 if upright else 90
    )


def _labelled(places: int, width: float) -> list[int]:
    """Places whose turned labels do not touch: all, or every second, third ... and the last."""
    every = math.ceil(places * LABEL_POINTS / ((width - 2.2) * 72))
    return [*range(0, places - every, every), places - 1] if places else []
