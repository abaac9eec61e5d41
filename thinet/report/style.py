"""What all figures share: colours that colour-blind readers can tell apart, axes, saving.

Figures are made with ``matplotlib.figure.Figure`` and drawn by Agg: no pyplot, no global state, no
display. matplotlib is imported inside the functions because it takes longer than a dry run.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from thinet.base.files import write_bytes_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

# The palette of Okabe and Ito (2008), darkest first, without its yellow, which white swallows.
BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY = (
    "#0072B2", "#D55E00", "#009E73", "#AA5A8C", "#E69F00", "#56B4E9",
)  # fmt: skip
CYCLE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "h")
DASHES: tuple[str | tuple[int, tuple[float, ...]], ...] = (
    "solid", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), (0, (3, 1, 1, 1, 1, 1)),
)  # fmt: skip
INK, MUTED, GRID, FAINT = "#1F2430", "#5F6773", "#E4E7EB", "#C9D3DC"
DPI = 120


class EndLabel(NamedTuple):
    """A text beside the end of a line: where the line ends, what to write, in which colour."""

    x: float
    y: float
    text: str
    color: str


def new_figure(
    width: float, height: float, title: str, subtitle: str, columns: int = 1, rows: int = 1
) -> tuple[Figure, list[Axes]]:
    """Make a figure with ``columns`` empty styled axes side by side, in one or several rows.

    Args:
        width: Width in inches.
        height: Height in inches.
        title: First line, bold.
        subtitle: Second line, muted.
        columns: Number of axes in a row.
        rows: Number of rows.

    Returns:
        The figure and the list of its axes, row by row.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(rect=(0, 0, 1, 1 - 0.62 / height), w_pad=0.08, h_pad=0.06)
    figure = Figure(figsize=(width, height), dpi=DPI, layout=layout, facecolor="white")
    figure.text(
        0.12 / width, 1 - 0.12 / height, title, size=12.5, weight="bold", color=INK, va="top"
    )
    below = figure.text(0.12 / width, 1 - 0.39 / height, subtitle, size=9, color=MUTED, va="top")
    _fit(below, (width - 0.2) * figure.dpi)  # the settings may be many
    axes = [figure.add_subplot(rows, columns, 1 + place) for place in range(rows * columns)]
    for ax in axes:
        for side in ("top", "right"):
            ax.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            ax.spines[side].set_color(FAINT)
        ax.tick_params(colors=MUTED, labelcolor=INK, labelsize=8.5, length=3)
        ax.xaxis.label.set(color=MUTED, size=9)
        ax.yaxis.label.set(color=MUTED, size=9)
        ax.set_axisbelow(True)
    return figure, axes


def _fit(text: Text, pixels: float) -> None:
    """Cut the middle out of a text until it is no wider than that."""
    while (taken := text.get_window_extent().width) > pixels:
        content = text.get_text()
        text.set_text(short(content, min(len(content) - 2, int(len(content) * pixels / taken))))


def legend_above(ax: Axes) -> None:
    """Name the lines in a row above the axes."""
    ax.legend(
        loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4, frameon=False, fontsize=9,
        borderaxespad=0.3, handlelength=1.8, columnspacing=1.6, labelcolor=INK,
    )  # fmt: skip


def short(name: str, limit: int = 34) -> str:
    """Cut the middle out of a very long name: both ends tell layers apart."""
    half = (limit - 1) // 2
    return name if len(name) <= limit else f"{name[:half]}…{name[-half:]}"


def percent_axis(ax: Axes, axis: str = "y") -> None:
    """Write the ticks of an axis in percent and draw its grid."""
    from matplotlib.ticker import FuncFormatter

    target = ax.yaxis if axis == "y" else ax.xaxis
    target.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
    ax.grid(axis="y" if axis == "y" else "x", color=GRID, linewidth=0.8)


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move positions apart until neighbours are at least ``gap`` apart, within [low, high].

    Order is kept, and positions that need not move stay where they are. If the interval is too
    short for all of them, they are spaced evenly over it.
    """
    if not positions:
        return []
    gap = min(gap, (high - low) / max(len(positions) - 1, 1))
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    placed: list[float] = []
    for rank, i in enumerate(order):
        floor = placed[-1] + gap if placed else low
        ceiling = high - gap * (len(order) - 1 - rank)
        placed.append(min(max(positions[i], floor), ceiling))
    # Clusters were only pushed up: centre each one on the places it stands for.
    start = 0
    for stop in range(1, len(order) + 1):
        if stop < len(order) and placed[stop] - placed[stop - 1] <= gap * (1 + 1e-9):
            continue
        wanted = sum(positions[i] for i in order[start:stop]) / (stop - start)
        floor = placed[start - 1] + gap if start else low
        shift = max(wanted - sum(placed[start:stop]) / (stop - start), floor - placed[start])
        placed[start:stop] = [value + min(shift, 0.0) for value in placed[start:stop]]
        start = stop
    result = [0.0] * len(positions)
    for i, value in zip(order, placed, strict=True):
        result[i] = value
    return result


def label_ends(ax: Axes, labels: Sequence[EndLabel], size: float = 9) -> None:
    """Write labels to the right of the axes, moved apart, each tied to its line by a leader.

    The y limits must be final, since distances in points depend on them.
    """
    low, high = ax.get_ylim()
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # names of stages below the axes take what they need of it
    inches = ax.get_window_extent().height / figure.dpi
    lines = max((label.text.count("\n") + 1 for label in labels), default=1)
    gap = (high - low) * size * (1.3 * lines + 0.15) / 72 / inches
    heights = spread([label.y for label in labels], gap, low, high)
    for label, height in zip(labels, heights, strict=True):
        ax.annotate(
            label.text, xy=(label.x, label.y), xycoords="data",
            xytext=(1.035, height), textcoords=ax.get_yaxis_transform(),
            size=size, color=INK, va="center", ha="left", annotation_clip=False,
            arrowprops={
                "arrowstyle": "-", "color": label.color, "linewidth": 0.9, "alpha": 0.7,
                "shrinkA": 1, "shrinkB": 5, "relpos": (0, 0.5),
            },
        )  # fmt: skip


def png(figure: Figure) -> bytes:
    """Draw a figure with Agg and return the PNG file's bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def save_png(figure: Figure, path: str | Path) -> Path:
    """Write a figure as PNG, atomically.

    Raises:
        ThinetError: If the folder cannot be written.
    """
    return write_bytes_atomic(path, png(figure))
