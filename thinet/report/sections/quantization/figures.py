"""Figures of binarisation: sizes and operations, speeds, and the course of its training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from thinet.report import numbers, style
from thinet.report.courses import LOSS
from thinet.report.sections.quantization.details import (
    FACTORS,
    FLOATING,
    OTHERS,
    WEIGHTS,
    Part,
    Speed,
)
from thinet.run.result import Measurement

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = {
    WEIGHTS: style.BLUE,
    FACTORS: style.GREEN,
    FLOATING: style.VERMILLION,
    OTHERS: style.ORANGE,
}
"""Of each part, in all figures."""
BINARY, FLOAT = "on single bits", "in floating point"
TOP1 = "val/top1"
DENSE = 40
"""Epochs from which on they have no markers of their own."""
ROOM = 0.14
"""Share of a bar that a text within it needs at least."""

Segment = tuple[str, float, str]
"""Name, length and colour."""


def sizes_figure(
    where: Sequence[Part], reference: Measurement, final: Measurement, order: int, subject: str
) -> Figure:
    """Parameters on one scale, those of the binary network enlarged, and operations.

    Args:
        where: Where the bits are.
        reference: The network in full precision.
        final: The binary one.
        order: K.
        subject: Of the figure.
    """
    full = [(one.name, one.full / 8, COLORS[one.name]) for one in where]
    own = [(one.name, one.bits / 8, COLORS[one.name]) for one in where]
    operations = [
        [(FLOAT, float(reference.macs), style.VERMILLION)],
        [
            (BINARY, float(final.binary_ops), style.BLUE),
            (FLOAT, float(final.macs), style.VERMILLION),
        ],
    ]
    figure, axes = style.new_figure(
        9.6, 5.6, "Where the bits and the operations are", subject, rows=3
    )
    both = ["full precision", "binary"]
    _bars(axes[0], both, [full, own], numbers.data)
    axes[0].set_title("Bytes of the parameters", size=9.5, color=style.INK, loc="left")
    _bars(axes[1], ["binary,\nenlarged"], [own], numbers.data, shares=True)
    _bars(axes[2], both, operations, numbers.human)
    passes = "" if order == 1 else f"; each layer of bits takes {order} passes"
    axes[2].set_title(
        f"Multiply-accumulates of one image{passes}", size=9.5, color=style.INK, loc="left"
    )
    _legend(axes[1], own)
    _legend(axes[2], operations[1])
    return figure


def _bars(
    ax: Axes, names: Sequence[str], bars: Sequence[Sequence[Segment]],
    write: Callable[[float | None], str], shares: bool = False,
) -> None:  # fmt: skip
    """Stacked bars, one a row, each with its sum at its end, or with shares within."""
    longest = max(sum(length for _, length, _ in bar) for bar in bars) or 1.0
    for row, bar in enumerate(bars):
        left, total = 0.0, sum(length for _, length, _ in bar)
        for _, length, color in bar:
            ax.barh(row, length, left=left, color=color, height=0.31 * len(bars), edgecolor="white",
                    linewidth=0.6)  # fmt: skip
            if shares and length > ROOM * longest:
                ax.text(left + length / 2, row, f"{write(length)}, {100 * length / total:.0f} %",
                        ha="center", va="center", size=8.5, color="white")  # fmt: skip
            left += length
        ax.text(left + 0.008 * longest, row, write(total), va="center", size=9, color=style.INK)
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set_xlim(0, 1.12 * longest)
    ax.set_xticks([])
    ax.spines["bottom"].set_visible(False)
    ax.tick_params(axis="y", length=0)


def _legend(ax: Axes, bar: Sequence[Segment]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=color, label=name) for name, length, color in bar if length]
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(0, 0.0), ncols=4, frameon=False,
              fontsize=8.5, borderaxespad=0.2, handlelength=1.2, columnspacing=1.4,
              labelcolor=style.INK)  # fmt: skip


def speeds_figure(speeds: Sequence[Speed], factor: float, subject: str) -> Figure:
    """Measured times as bars, the theoretical factor beside them in words.

    Args:
        speeds: Measured ones.
        factor: By the formula of the paper.
        subject: Of the figure.
    """
    several = len({one.threads for one in speeds}) > 1
    height = 2.0 + 0.36 * len(speeds)
    figure, (ax,) = style.new_figure(9.6, height, "Time of one image, measured", subject)
    base = {one.threads: one.latency_ms for one in speeds if one.name == "PyTorch, full precision"}
    longest = max(one.latency_ms for one in speeds) or 1.0
    for row, one in enumerate(speeds):
        color = style.BLUE if "bit" in one.name else style.FAINT
        ax.barh(row, one.latency_ms, color=color, height=0.66)
        text = numbers.milliseconds(one.latency_ms)
        change = numbers.change(base.get(one.threads), one.latency_ms, "faster", "slower")
        if change not in (numbers.MISSING, "unchanged"):
            text += f", {change}"
        ax.text(one.latency_ms + 0.01 * longest, row, text, va="center", size=9, color=style.INK)
    threads = {one.threads: f"{one.threads} thread{'s' * (one.threads != 1)}" for one in speeds}
    names = [f"{one.name}, {threads[one.threads]}" if several else one.name for one in speeds]
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set_xlim(0, 1.3 * longest)
    ax.grid(axis="x", color=style.GRID, linewidth=0.8)
    ax.tick_params(axis="y", length=0)
    measured = "median in milliseconds" + ("" if several else f", {next(iter(threads.values()))}")
    ax.set_xlabel(
        f"{measured}; against PyTorch, full precision\n"
        f"in theory {factor:.1f}x in the binary layers alone, by the formula of the paper:\n"
        "64 one-bit operations take as long as one in floating point, so no SIMD in the baseline"
    )
    return figure


def training_figure(
    values: Mapping[str, Sequence[float]], steps: Sequence[tuple[str, int]],
    reference: float | None, subject: str,
) -> Figure:  # fmt: skip
    """Loss and validation accuracy over the epochs, with the steps named.

    Args:
        values: Of each epoch: ``train/loss``, and ``val/top1`` if it is known.
        steps: Their names and how many epochs each has.
        reference: Validation accuracy of the network in full precision.
        subject: Of the figure.
    """
    panels = [name for name in (LOSS, TOP1) if name in values]
    figure, axes = style.new_figure(
        9.6, 3.6, "The course of the training", subject, columns=len(panels)
    )
    for ax, name in zip(axes, panels, strict=True):
        heights = [100 * value if name == TOP1 else value for value in values[name]]
        ax.plot(range(1, len(heights) + 1), heights, color=style.BLUE, linewidth=1.8,
                marker="o" if len(heights) <= DENSE else None, markersize=4.5,
                markeredgecolor="white", markeredgewidth=0.6)  # fmt: skip
        if name == TOP1:
            _accuracies(ax, heights, reference)
        else:
            ax.grid(axis="y", color=style.GRID, linewidth=0.8)
        ax.set_title("validation top-1" if name == TOP1 else "training loss", size=9.5,
                     color=style.INK, loc="left")  # fmt: skip
        _epochs(ax, steps)
    return figure


def _accuracies(ax: Axes, heights: Sequence[float], reference: float | None) -> None:
    style.percent_axis(ax)
    if reference is None or not math.isfinite(reference):
        return
    ax.axhline(100 * reference, color=style.MUTED, linewidth=1.2, linestyle=(0, (5, 3)), zorder=1)
    ax.annotate(f"full precision {100 * reference:.2f} %", (0.99, 100 * reference),
                xycoords=ax.get_yaxis_transform(), xytext=(0, 3), textcoords="offset points",
                ha="right", size=8.5, color=style.MUTED)  # fmt: skip
    known = [one for one in (*heights, 100 * reference) if math.isfinite(one)]
    room = 0.12 * max(max(known) - min(known), 1.0)
    ax.set_ylim(min(known) - room, max(known) + 1.4 * room)


def _epochs(ax: Axes, steps: Sequence[tuple[str, int]]) -> None:
    from matplotlib.ticker import MaxNLocator

    ends = list(accumulate(epochs for _, epochs in steps))
    for end in ends[:-1]:
        ax.axvline(end + 0.5, color=style.FAINT, linewidth=1.1, zorder=1)
    names = ", then ".join(name for name, _ in steps) if len(steps) <= 3 else ""
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
    ax.set_xlim(0.4, ends[-1] + 0.6)
    ax.set_xlabel(f"epoch ({names})" if names and len(steps) > 1 else "epoch")
