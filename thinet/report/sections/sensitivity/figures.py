"""Figures of ``method=sensitivity``: a curve for each layer, and all of them as a heat map."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from thinet.report import numbers, style
from thinet.report.sections.sensitivity.records import Cell, SensitivityDetails, rows_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Cells = dict[str, list[Cell]]
PANEL = 14
"""Layers whose curves share one panel: so many can be told apart."""


def curves_figure(found: SensitivityDetails, subject: str) -> Figure:
    """Top-1 over the fraction of filters kept, one curve a layer, in panels of neighbours.

    Curves run from pale (first layer of the panel) to dark (last); markers are measurements.
    """
    rows = rows_of(found.cells)
    names = list(rows)
    panels = max(1, math.ceil(len(names) / PANEL))
    each = math.ceil(len(names) / panels)
    columns = min(panels, 2)
    lines = math.ceil(panels / columns)
    figure, axes = style.new_figure(
        9.6 if columns == 1 else 13.5,
        0.62 + 4.3 * lines,
        "Sensitivity: one layer cut at a time",
        f"{subject}; top-1 on {found.images} validation images, no fine-tuning",
        columns,
        lines,
    )
    known = [found.full.top1, *(cell.top1 for row in rows.values() for cell in row)]
    limits = (100 * min(known), 100 * max(known))
    for number, ax in enumerate(axes):
        part = names[number * each : (number + 1) * each]
        if not part:
            ax.set_visible(False)
            continue
        _curves(ax, {name: rows[name] for name in part}, found, limits)
    return figure


def _curves(ax: Axes, rows: Cells, found: SensitivityDetails, limits: tuple[float, float]) -> None:
    from matplotlib import colormaps

    full = 100 * found.full.top1
    ax.axhline(full, color=style.MUTED, linewidth=1.1, linestyle=(0, (5, 3)), zorder=1)
    shades = colormaps["viridis_r"]
    span = max(limits[1] - limits[0], 1.0)
    for place, (name, row) in enumerate(rows.items()):
        color = shades(0.12 + 0.88 * place / max(len(rows) - 1, 1))
        x = [1.0, *(cell.ratio for cell in row)]
        y = [full, *(100 * cell.top1 for cell in row)]
        ax.plot(x, y, color=color, linewidth=1.6, marker=style.MARKERS[place % 8], markersize=5,
                markeredgecolor="white", markeredgewidth=0.5, label=name)  # fmt: skip
    ax.set_ylim(limits[0] - 0.05 * span, limits[1] + 0.05 * span)
    ticks = sorted({1.0, *found.ratios}, reverse=True)
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.set_xlim(1.03, ticks[-1] - 0.05)
    style.percent_axis(ax)
    ax.set_ylabel("top-1 accuracy")
    ax.set_xlabel("fraction of the layer's filters kept (1: full network, dashed)")
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8,
              labelcolor=style.INK, handlelength=2.2)  # fmt: skip


def heatmap_figure(found: SensitivityDetails, subject: str) -> Figure:
    """The drop of top-1 in points for every layer and ratio, and the suggested ratio beside it."""
    rows = rows_of(found.cells)
    columns = 1 if len(rows) <= 30 else 2
    each = math.ceil(len(rows) / columns)
    high = 0.24 if each > 16 else 0.3
    figure, axes = style.new_figure(
        7.2 if columns == 1 else 13.0,
        1.9 + max(each, 3) * high,
        "Sensitivity: accuracy lost by cutting one layer",
        f"{subject}; points of top-1 on {found.images} validation images",
        columns,
    )
    drops = [100 * (found.full.top1 - cell.top1) for row in rows.values() for cell in row]
    worst = max([1.0, *drops])
    names = list(rows)
    for column, ax in enumerate(axes):
        part = names[column * each : (column + 1) * each]
        _heatmap(ax, {name: rows[name] for name in part}, found, worst, each)
    return figure


def _heatmap(ax: Axes, rows: Cells, found: SensitivityDetails, worst: float, most: int) -> None:
    from matplotlib.colors import PowerNorm

    ratios = found.ratios
    full = found.full.top1
    drops = [[100 * (full - cell.top1) for cell in row] for row in rows.values()]
    # The square root of the drop: a lost point must show beside a layer that loses eighty.
    ax.imshow(drops, cmap="YlOrRd", norm=PowerNorm(0.5, 0, worst, clip=True), aspect="auto")
    for y, row in enumerate(drops):
        for x, drop in enumerate(row):
            light = max(drop, 0.0) > 0.45 * worst
            ax.text(x, y, f"{drop:.1f}".replace("-0.0", "0.0"), ha="center", va="center", size=8,
                    color="white" if light else style.INK)  # fmt: skip
    right = len(ratios) - 0.5
    for y, name in enumerate(rows):
        ax.text(right + 0.55, y, f"{found.suggestion[name]:.2f}", ha="center", va="center",
                size=8, color=style.BLUE, weight="bold", clip_on=False)  # fmt: skip
    ax.text(right + 0.55, -0.75, "suggested", ha="center", va="bottom", size=8.5,
            color=style.BLUE, clip_on=False)  # fmt: skip
    ax.set_xticks(range(len(ratios)), [f"{ratio:g}" for ratio in ratios])
    ax.set_yticks(range(len(rows)), list(rows), size=8)
    ax.set_ylim(most - 0.5, -0.5)
    ax.set_xlim(-0.5, right + 1.1)
    ax.tick_params(length=0)
    ax.xaxis.tick_top()
    ax.xaxis.set_label_position("top")
    ax.set_xlabel(f"fraction of filters kept (full network {numbers.percent(full)})")
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)
